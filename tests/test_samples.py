"""Sample outputs of a training's evaluations: kept over a kill, few in the result."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from adapters import samples
from adapters.specs import SampleOutput, read_lines


def written(*names: str) -> list[SampleOutput]:
    return [SampleOutput(id=name, expected="a", answered="b") for name in names]


def test_what_an_attempt_wrote_beyond_its_checkpoint_is_dropped_with_a_torn_line(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        samples.add(tmp_path, step, written("t1", "t2"))
    with (tmp_path / samples.FILE).open("ab") as file:
        file.write(b'{"id": "t1", "exp')
    samples.resume(tmp_path, 20)
    samples.add(tmp_path, 30, written("t1"))
    kept = [(one.step, one.id) for one in read_lines(tmp_path / samples.FILE, SampleOutput)]
    assert kept == [(10, "t1"), (10, "t2"), (20, "t1"), (20, "t2"), (30, "t1")]
    assert [path.name for path in tmp_path.iterdir()] == [samples.FILE]


@given(st.sets(st.integers(1, 2000), min_size=1, max_size=300), st.data())
def test_a_result_tells_of_the_first_and_the_kept_weights_and_of_few_between(
    steps: set[int], data: st.DataObject
) -> None:
    best = data.draw(st.sampled_from(sorted(steps)))
    kept = [SampleOutput(id="t1", expected="a", answered="b", step=step) for step in sorted(steps)]
    told = samples.spread(kept, written("t1", "t2"), best)
    assert [one.step for one in told] == sorted(one.step for one in told)
    assert [one.id for one in told if one.step == best] == ["t1", "t2"]
    assert len({one.step for one in told}) <= samples.SHOWN + 1
    others = steps - {best}
    if others:
        assert {min(others), max(others)} <= {one.step for one in told}
    if len(others) <= samples.SHOWN:
        assert {one.step for one in told} == steps
