from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from loop.curation import Curated, Labelled, control_out_of_fold, curate, find_suspects, general_count
from loop.similarity import similarity

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


def run(rows: Sequence[Labelled], exam: Sequence[str] = (), seed: int = 1, valid_share: float = 0.15) -> Curated:
    return curate(rows, exam, CLASSES, valid_share=valid_share, near_duplicate=0.9, seed=seed)


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
    sizes = Counter(one.label for one in kept)
    assert max(sizes.values(), default=0) <= 10 * min(sizes.values(), default=0)
    gone = count(curated, "leaks") + count(curated, "duplicates") + count(curated, "capped")
    assert count(curated, "labels") - gone == len(kept)
    assert count(curated, "failures") == sum(one.failure for one in kept)
    assert count(curated, "validation") == len(curated.valid)


def distinct(number: int, label: str, failure: bool = False) -> tuple[str, str, bool]:
    return (" ".join(f"{label[:3]}{number * 31 + step * 7:04x}" for step in range(6)), label, failure)


def test_copies_go_and_the_newest_label_counts() -> None:
    rows = rows_of([("paid twice in march", "billing", False), ("Paid twice in March!", "urgent", False)])
    curated = run(rows)
    assert [one.id for one in [*curated.train, *curated.valid]] == ["r1"]
    assert any("different labels" in warning for warning in curated.warnings)


def test_leaks_are_refused() -> None:
    rows = rows_of([("paid twice in march", "billing", False), distinct(1, "urgent")])
    curated = run(rows, ["PAID twice in   march"])
    assert [one.id for one in [*curated.train, *curated.valid]] == ["r1"]
    assert count(curated, "leaks") == 1


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


def test_suspect_labels_are_named_not_removed() -> None:
    def sure(texts: Sequence[str], labels: Sequence[str]) -> list[Mapping[str, float]]:
        return [
            {"billing": 0.9, "urgent": 0.1} if "money" in text else {"billing": 0.1, "urgent": 0.9} for text in texts
        ]

    values = [(f"money {n}", "billing", False) for n in range(20)] + [(f"fire {n}", "urgent", False) for n in range(20)]
    values += [("money again", "urgent", False)]
    assert find_suspects(rows_of(values), sure) == ["r40"]
    assert find_suspects(rows_of(values[:40]), sure) == []


def test_the_control_finds_a_planted_mistake() -> None:
    kinds = {
        "billing": ["invoice", "refund", "charge", "payment", "card", "price", "tax", "receipt", "money", "amount"],
        "technical": ["error", "crash", "login", "export", "sync", "button", "page", "loading", "update", "browser"],
    }
    values = []
    for label, words in kinds.items():
        for n in range(30):
            values.append((" ".join(words[(n * (step + 3) + step * step) % 10] for step in range(6)), label, False))
    values[3] = (values[3][0], "technical", False)
    rows = rows_of(values)
    assert "r3" in find_suspects(rows, control_out_of_fold)[:3]


@given(st.integers(0, 5000), st.floats(0, 0.5))
def test_general_examples_make_up_their_share(train: int, share: float) -> None:
    general = general_count(train, share)
    assert general >= 0
    assert abs(general - share * (general + train)) <= 0.5 + 1e-6
