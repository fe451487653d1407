from collections import Counter
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from loop.selection import Candidate, select
from loop.settings import HarvestSettings
from store.events import Side

LABELS = {"urgent": 20, "billing": 60, "technical": 60}
WARM = HarvestSettings(cold_labels=0)
opinions = st.none() | st.sampled_from(list(LABELS))
margins = st.none() | st.floats(0, 1)
candidates = st.lists(
    st.builds(
        Candidate,
        record_id=st.uuids().map(str),
        cluster=st.integers(0, 25).map(str),
        side=st.sampled_from(get_args(Side)),
        answer=opinions,
        margin=margins,
        feedback=opinions,
        opinion=opinions,
        opinion_margin=st.floats(0, 1),
    ),
    max_size=40,
    unique_by=lambda one: one.record_id,
)
rules = st.builds(
    HarvestSettings,
    uncertain_share=st.floats(0, 1),
    disputed_share=st.floats(0, 1),
    rare_share=st.floats(0, 1),
    coverage_share=st.floats(0, 1),
    cold_labels=st.sampled_from([0, 1000]),
    seed=st.integers(0, 5),
)


def one(number: int, **more: Any) -> Candidate:
    values = {"record_id": f"r{number}", "cluster": f"c{number}", "side": "train", "answer": "billing", "margin": 0.9}
    return Candidate(**{**values, **more})


@given(candidates, rules, st.integers(0, 30), st.frozensets(st.integers(0, 25).map(str), max_size=10))
def test_whatever_comes_the_rules_hold(
    found: list[Candidate], harvest: HarvestSettings, room: int, taken: frozenset[str]
) -> None:
    chosen = select(found, harvest, labels=LABELS, room=room, taken_clusters=taken)
    assert chosen == select(found, harvest, labels=LABELS, room=room, taken_clusters=taken)
    by_id = {each.record_id: each for each in found}
    clusters = [by_id[wanted.record_id].cluster for wanted in chosen.wanted]
    assert len(chosen.wanted) <= room
    assert len(set(clusters)) == len(clusters)
    assert not set(clusters) & taken
    assert [wanted.priority for wanted in chosen.wanted] == sorted((w.priority for w in chosen.wanted), reverse=True)
    for wanted in chosen.wanted:
        candidate = by_id[wanted.record_id]
        assert wanted.side == candidate.side != "none"
        assert wanted.reasons
        assert all(0 <= reason.score <= 1 and reason.detail for reason in wanted.reasons)
        if candidate.side == "exam":
            assert wanted.reasons[0].name == "misclassified"
        for reason in wanted.reasons:
            if reason.name == "misclassified":
                assert candidate.feedback not in (None, candidate.answer)
            if reason.name == "disputed":
                assert candidate.opinion != candidate.answer


@given(candidates, st.integers(0, 30))
def test_corrected_answers_come_first(found: list[Candidate], room: int) -> None:
    chosen = select(found, WARM, labels=LABELS, room=room)
    corrected = {each.cluster for each in found if each.side != "none" and each.feedback not in (None, each.answer)}
    first = [wanted for wanted in chosen.wanted if wanted.reasons[0].name == "misclassified"]
    assert len(first) == min(room, len(corrected))
    assert chosen.dropped >= len(corrected) - len(first)
    assert (chosen.dropped > 0) == (len(corrected) > room)


def test_a_full_queue_is_told() -> None:
    found = [one(n, feedback="urgent") for n in range(10)]
    chosen = select(found, WARM, labels=LABELS, room=4)
    assert (len(chosen.wanted), chosen.dropped) == (4, 6)
    assert select(found, WARM, labels=LABELS, room=0).wanted == []


def test_each_reason_has_its_quota() -> None:
    found = [one(n, opinion="technical", opinion_margin=0.6) for n in range(100)]
    found += [one(200 + n, margin=0.1 + n / 1000) for n in range(100)]
    found += [one(400 + n, opinion="urgent", answer="urgent", opinion_margin=0.9) for n in range(100)]
    found += [one(600 + n) for n in range(100)]
    chosen = select(found, WARM, labels=LABELS, room=100)
    counts = Counter(wanted.reasons[0].name for wanted in chosen.wanted)
    assert counts["disputed"] >= 30
    assert counts["uncertain"] >= 30
    assert counts["rare"] >= 20
    assert len(chosen.wanted) == 100
    lowest = {f"r{200 + n}" for n in range(20)}
    assert lowest <= {wanted.record_id for wanted in chosen.wanted}


def test_while_labels_are_few_random_records_fill_the_queue() -> None:
    found = [one(n) for n in range(100)]
    few = {"urgent": 2, "billing": 1, "technical": 0}
    assert len(select(found, HarvestSettings(), labels=few, room=50).wanted) == 50
    assert len(select(found, HarvestSettings(), labels=LABELS, room=50).wanted) == 10


def test_an_abstention_is_full_doubt() -> None:
    chosen = select([one(1, answer=None, margin=None)], WARM, labels=LABELS, room=5)
    assert chosen.wanted[0].reasons[0].name == "uncertain"
    assert chosen.wanted[0].reasons[0].score == 1
