import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop import balance
from loop.curation import Curated, Labelled, LeftOut, curate, general_count
from loop.similarity import similarity
from loop.suspects import Suspect, find_suspects, out_of_fold

CLASSES = ["urgent", "billing", "technical"]
WORDS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliet",
    "kilo",
    "lima",
    "mike",
    "november",
    "oscar",
    "papa",
]
texts = st.lists(st.sampled_from(WORDS), min_size=3, max_size=6).map(" ".join)


def rows_of(values: Sequence[tuple[str, str, bool]]) -> list[Labelled]:
    return [
        Labelled(id=f"r{n}", text=text, label=label, cluster=f"c{n}", position=n + 1, failure=failure)
        for n, (text, label, failure) in enumerate(values)
    ]


def run(
    rows: Sequence[Labelled], exam: Sequence[str] = (), seed: int = 1, valid_share: float = 0.15, reweight: bool = False
) -> Curated:
    items = {f"e{n}": text for n, text in enumerate(exam)}
    return curate(rows, items, CLASSES, valid_share=valid_share, near_duplicate=0.9, seed=seed, reweight=reweight)


def count(curated: Curated, step: str) -> int:
    return next(one.count for one in curated.counts if one.step == step)


labelled = st.lists(st.tuples(texts, st.sampled_from(CLASSES), st.booleans()), max_size=40).map(rows_of)


@given(labelled, st.lists(texts, max_size=8), st.integers(0, 3))
@settings(max_examples=60)
def test_whatever_comes_the_rules_hold(rows: list[Labelled], exam: list[str], seed: int) -> None:
    curated = run(rows, exam, seed)
    assert curated == run(rows, exam, seed)
    kept = [*curated.train, *curated.valid]
    assert len({one.id for one in kept}) == len(kept)
    assert {one.id for one in kept} <= {one.id for one in rows}
    for one in kept:
        assert all(similarity(one.text, leak) < 0.9 for leak in exam)
        assert all(other is one or similarity(one.text, other.text) < 0.9 for other in kept)
    assert {one.label for one in curated.valid} <= {one.label for one in curated.train}
    shown = Counter(one.label for one in curated.train for _ in range(curated.copies.get(one.label, 1)))
    assert max(shown.values(), default=0) <= 10 * min(shown.values(), default=0)
    assert shown.total() == curated.lines == len(curated.train) + count(curated, "repeated")
    gone = count(curated, "leaks") + count(curated, "duplicates") + count(curated, "capped")
    assert count(curated, "labels") - gone == len(kept)
    assert {one.id for one in curated.left_out} == {one.id for one in rows} - {one.id for one in kept}
    assert Counter(one.step for one in curated.left_out) == Counter(
        {step: count(curated, step) for step in ("leaks", "duplicates", "capped") if count(curated, step)}
    )
    assert count(curated, "failures") == sum(one.failure for one in kept)
    assert count(curated, "validation") == len(curated.valid)


def distinct(number: int, label: str, failure: bool = False) -> tuple[str, str, bool]:
    return (" ".join(f"{label[:3]}{number * 31 + step * 7:04x}" for step in range(6)), label, failure)


def test_copies_go_and_the_newest_label_counts() -> None:
    rows = rows_of([("paid twice in march", "billing", False), ("Paid twice in March!", "urgent", False)])
    curated = run(rows)
    assert [one.id for one in [*curated.train, *curated.valid]] == ["r1"]
    assert curated.left_out == [LeftOut("r0", "duplicates", "r1")]
    assert "1 near-duplicates carry different labels; the newest one counts: r0" in curated.warnings


def test_leaks_are_refused() -> None:
    rows = rows_of([("paid twice in march", "billing", False), distinct(1, "urgent")])
    curated = run(rows, ["PAID twice in   march"])
    assert [one.id for one in [*curated.train, *curated.valid]] == ["r1"]
    assert count(curated, "leaks") == 1
    assert curated.left_out == [LeftOut("r0", "leaks", "e0")]


def test_the_balance_is_warned_about_and_capped() -> None:
    mild = [distinct(n, "billing") for n in range(60)] + [distinct(n, "urgent") for n in range(15)]
    curated = run(rows_of(mild))
    assert count(curated, "capped") == 0
    assert any("4.0:1" in warning for warning in curated.warnings)
    grave = [distinct(n, "billing", failure=n % 10 == 0) for n in range(200)] + [
        distinct(n, "urgent") for n in range(5)
    ]
    curated = run(rows_of(grave))
    assert count(curated, "capped") == 150
    assert count(curated, "failures") == 20  # kept first
    assert "urgent" in curated.rare


def test_the_guideline_names_small_and_missing_classes() -> None:
    warning = next(w for w in run(rows_of([distinct(n, "urgent") for n in range(60)])).warnings if "guideline" in w)
    assert "billing 0" in warning
    assert "urgent" not in warning


def test_validation_has_its_share_and_follows_the_cluster() -> None:
    rows = rows_of([distinct(n, label) for n in range(300) for label in CLASSES])
    curated = run(rows)
    assert 0.10 < len(curated.valid) / len(rows) < 0.20
    more = run([*rows, *(Labelled(id="new", text="a wholly new text", label="urgent", cluster="n", position=9999),)])
    assert {one.id for one in curated.valid} == {one.id for one in more.valid} - {"new"}
    assert run(rows, valid_share=0.0).valid == []


def test_one_stray_label_of_a_new_class_costs_the_others_nothing() -> None:
    rows = rows_of([distinct(n, "billing") for n in range(40)] + [distinct(1, "urgent")])
    curated = run(rows, valid_share=0.0)
    assert len(curated.train) == 41 and count(curated, "capped") == 0
    assert curated.copies == {"urgent": 4}  # 40 to 4: no more than ten to one
    assert curated.rare == ["urgent", "technical"]
    detail = next(one.detail for one in curated.counts if one.step == "repeated")
    assert detail == "examples shown again: urgent x4"


def test_weights_can_be_made_even() -> None:
    rows = rows_of([distinct(n, "billing") for n in range(60)] + [distinct(n, "urgent") for n in range(20)])
    assert run(rows, valid_share=0.0).copies == {}
    even = run(rows, valid_share=0.0, reweight=True)
    assert even.copies == {"urgent": 3} and even.lines == 120


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 500), max_size=8), st.booleans())
def test_copies_bring_classes_nearer_and_never_make_one_the_largest_by_far(sizes: dict[str, int], even: bool) -> None:
    copies = balance.copies(sizes, even=even)
    assert all(1 < times <= balance.MOST_COPIES for times in copies.values())
    shown = {label: size * copies.get(label, 1) for label, size in sizes.items() if size}
    assert max(shown.values(), default=0) <= 1.5 * max(sizes.values(), default=0)
    if even:
        largest = max(sizes.values(), default=0)
        assert all(value >= largest / 2 or copies[label] == balance.MOST_COPIES for label, value in shown.items())


@pytest.mark.parametrize(("kind", "least"), [("extraction", 100), ("instruction", 500), ("style", 1000)])
def test_each_kind_of_task_has_its_guideline(kind: balance.Kind, least: int) -> None:
    rows = rows_of([distinct(n, "") for n in range(least)])
    assert balance.warnings(rows, [], kind) == []
    (warning,) = balance.warnings(rows[1:], [], kind)
    assert warning.startswith(f"{least - 1} examples: the guideline for {kind} is {least}-")


def test_no_failure_among_the_examples_is_said() -> None:
    missing = "no example is one that production got wrong: those teach most"
    assert missing in run(rows_of([distinct(1, "urgent")])).warnings
    assert missing not in run(rows_of([distinct(1, "urgent", failure=True)])).warnings
    assert missing not in run([]).warnings


# ---------------------------------------------------------------- the audit of labels


def suspects_of(values: Sequence[tuple[str, str]], **chosen: object) -> list[Suspect]:
    texts, labels = [text for text, _ in values], [label for _, label in values]
    return find_suspects([f"r{n}" for n in range(len(values))], texts, labels, **{"out_of_fold": out_of_fold, **chosen})  # type: ignore[arg-type]


def test_suspect_labels_are_named_not_removed() -> None:
    def sure(texts: Sequence[str], labels: Sequence[str]) -> list[Mapping[str, float]]:
        return [
            {"billing": 0.9, "urgent": 0.1} if "money" in text else {"billing": 0.1, "urgent": 0.9} for text in texts
        ]

    values = [(f"money {n}", "billing") for n in range(20)] + [(f"fire {n}", "urgent") for n in range(20)]
    values += [("money again", "urgent")]
    assert suspects_of(values, out_of_fold=sure) == [Suspect("r40", "urgent", "billing", 0.8)]
    assert suspects_of(values[:40], out_of_fold=sure) == []


WORDS_OF = {
    "billing": ["invoice", "refund", "charge", "payment", "card", "price", "tax", "receipt", "money", "amount"],
    "technical": ["error", "crash", "login", "export", "sync", "button", "page", "loading", "update", "browser"],
}


def planted(each: int) -> list[tuple[str, str]]:
    """Texts of two classes; the fourth carries the wrong label."""
    chance = random.Random(2)  # noqa: S311
    five = {label: chance.sample(list(combinations(words, 5)), each) for label, words in WORDS_OF.items()}
    values = [(" ".join(words), label) for label, chosen in five.items() for words in chosen]
    values[3] = (values[3][0], "technical")
    return values


def test_a_planted_mistake_is_found() -> None:
    found = suspects_of(planted(30))[0]
    assert (found.id, found.label, found.likely) == ("r3", "technical", "billing")


def test_suspects_are_reported_before_training_where_there_is_enough_to_judge_by() -> None:
    def curated(each: int) -> Curated:
        rows = rows_of([(text, label, False) for text, label in planted(each)])
        options = {"valid_share": 0.0, "near_duplicate": 1.0, "plain": 1.0, "seed": 1}
        return curate(rows, {}, ["billing", "technical"], out_of_fold=out_of_fold, **options)  # type: ignore[arg-type]

    many, few = curated(100), curated(20)
    assert many.suspects[0].id == "r3" and count(many, "suspects") == len(many.suspects) <= 10
    assert any("look doubtful: r3" in warning for warning in many.warnings)
    assert "r3" in {one.id for one in many.train}  # nothing is removed
    assert few.suspects == []
    assert "that takes 100 labels" in next(one.detail for one in few.counts if one.step == "suspects")


@given(st.integers(0, 5000), st.floats(0, 0.5))
def test_general_examples_make_up_their_share(train: int, share: float) -> None:
    general = general_count(train, share)
    assert general >= 0
    assert abs(general - share * (general + train)) <= 0.5 + 1e-6
