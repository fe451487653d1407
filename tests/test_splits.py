import math
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from loop.splits import Member, Placement, draw, place
from store.events import Side

sides = st.sampled_from(get_args(Side))
members = st.lists(
    st.builds(Member, cluster=st.sampled_from("abc"), side=sides, position=st.integers(1, 50)), max_size=6
)
shares = st.floats(0.01, 0.99)


@given(st.text(), members, shares, st.integers(0, 10))
def test_placement_follows_the_rules(record_id: str, near: list[Member], share: float, seed: int) -> None:
    placed = place(record_id, near, exam_share=share, seed=seed)
    assert placed == place(record_id, list(reversed(near)), exam_share=share, seed=seed)
    known = {member.side for member in near} - {"none"}
    if not near:
        assert placed.cluster == record_id
        assert placed.audit == (placed.side == "exam") == (draw(record_id, seed) < share)
        assert placed.audit_probability == share
        return
    assert not placed.audit
    assert placed.audit_probability == 0
    if len(known) == 1:
        assert placed.side in known
        assert placed.cluster in {member.cluster for member in near}
    else:
        assert placed.side == "none"


def test_the_share_is_what_is_drawn() -> None:
    n, share = 20_000, 0.3
    drawn = sum(place(f"record-{i}", [], exam_share=share, seed=7).audit for i in range(n))
    assert abs(drawn / n - share) < 4 * math.sqrt(share * (1 - share) / n)


def test_seeds_draw_independently() -> None:
    both = sum(draw(f"r{i}", 1) < 0.5 and draw(f"r{i}", 2) < 0.5 for i in range(8000))
    assert abs(both / 8000 - 0.25) < 0.025


def test_the_first_cluster_is_joined() -> None:
    near = [
        Member(cluster="late", side="exam", position=9),
        Member(cluster="early", side="exam", position=3),
        Member(cluster="kept-out", side="none", position=1),
    ]
    assert place("new", near, exam_share=0.3, seed=1) == Placement(
        side="exam", cluster="early", audit=False, audit_probability=0.0
    )


def test_a_bridge_is_kept_out() -> None:
    near = [Member(cluster="a", side="exam", position=1), Member(cluster="b", side="train", position=2)]
    assert place("new", near, exam_share=0.3, seed=1).side == "none"


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60), shares)
def test_no_two_near_duplicates_on_opposite_sides(arrivals: list[tuple[int, bool]], share: float) -> None:
    """Records are numbers; numbers one apart are near-duplicates."""
    placed: list[tuple[int, Placement]] = []
    for index, (value, _) in enumerate(arrivals):
        near = [
            Member(cluster=p.cluster, side=p.side, position=i) for i, (v, p) in enumerate(placed) if abs(v - value) <= 1
        ]
        placed.append((value, place(f"r{index}", near, exam_share=share, seed=1)))
    for value, p in placed:
        for other, q in placed:
            if abs(value - other) <= 1:
                assert {p.side, q.side} != {"train", "exam"}
