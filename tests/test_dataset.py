"""`tuneloop dataset`: files out and in, what curation would do, and what it did to a frozen dataset."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cli_world import lived_in, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loop import chats, datasets, exchange
from loop.answerers import training_prompt
from loop.bootstrap import App, open_app
from loop.chats import Chat
from loop.commands import FreezeDataset
from loop.steps import Steps
from store import events as ev
from store import queries
from store.log import Draft

LABELS = ["urgent", "billing", "technical", "general"]
WRAPPED = 'system = "Classify {about}. Reply with one label only: {labels}."\nuser = "Ticket: {text}\\nLabel?"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "w")


def opened(root: Path, **env: str) -> App:
    """The workspace with its read tables up to date."""
    app = open_app(root, env=env)
    app.workspace.projections.catch_up()
    return app


def file_of(app: App, path: Path, pairs: Sequence[tuple[str, str]], ids: bool = False) -> Path:
    """A chat file in the deployed form."""
    prompt = training_prompt(app, app.settings.task("tickets"))
    lines = [
        chats.write(Chat(messages=prompt.messages(text, label), id=f"T-{number}" if ids else ""))
        for number, (text, label) in enumerate(pairs)
    ]
    path.write_bytes(b"".join(lines))
    return path


def tickets(count: int, labels: Sequence[str] = LABELS) -> list[tuple[str, str]]:
    """Texts that are not alike, and their labels in turn."""
    found = []
    for number in range(count):
        label = labels[number % len(labels)]
        found.append((" ".join(f"{label[:3]}{number * 31 + step * 7:04x}" for step in range(6)), label))
    return found


# ---------------------------------------------------------------- files out and in


spoken = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
pairs = st.lists(st.tuples(spoken.filter(lambda text: text.strip() != ""), st.sampled_from(LABELS)), max_size=6)


@given(pairs, st.booleans(), st.booleans())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_file_comes_out_as_it_went_in(values: list[tuple[str, str]], ids: bool, wrapped: bool) -> None:
    with TemporaryDirectory() as folder:
        first, second = make(Path(folder) / "a"), make(Path(folder) / "b")
        env = {"TUNELOOP_TASKS__TICKETS__PROMPTS": '["mine@1"]'} if wrapped else {}
        for one in (first, second):
            (one / "prompts").mkdir(exist_ok=True)
            (one / "prompts" / "mine@1.toml").write_text(WRAPPED, encoding="utf-8")
        with opened(first, **env) as app:
            given_file = file_of(app, Path(folder) / "given.jsonl", values, ids)
            assert not wrapped or given_file.read_bytes().count(b"Ticket: ") >= len(values)
            done = exchange.import_file(app, "tickets", given_file)
            assert done.report.received == len(values) and done.otherwise == 0
            app.workspace.projections.catch_up()
            out = Path(folder) / "out.jsonl"
            assert exchange.write_file(out, exchange.standing(app, "tickets", ids=ids, side="all")) == len(values)
            assert out.read_bytes() == given_file.read_bytes()
        with opened(second, **env) as app:
            exchange.import_file(app, "tickets", out)
            app.workspace.projections.catch_up()
            again = Path(folder) / "again.jsonl"
            exchange.write_file(again, exchange.standing(app, "tickets", ids=ids, side="all"))
        assert again.read_bytes() == out.read_bytes()
        assert out.stat().st_mode & 0o077 == 0


def test_imported_examples_are_trained_on_and_not_examined(root: Path, tmp_path: Path, tuneloop: Any) -> None:
    with opened(root) as app:
        path = file_of(app, tmp_path / "examples.jsonl", tickets(80))
    done = tuneloop("dataset", "import", path, "-w", root, "--json")
    assert done.code == 0 and done.json["received"] == done.json["labelled"] == 80
    assert tuneloop("dataset", "import", path, "-w", root, "--json").json["known"] == 80
    with opened(root) as app:
        assert len(queries.labelled(app.workspace.read, "tickets", side="train")) == 80
    other = make(tmp_path / "other")
    assert tuneloop("dataset", "import", path, "-w", other, "--draw").code == 0
    with opened(other) as app:
        assert 5 < len(queries.labelled(app.workspace.read, "tickets", side="exam")) < 45


def test_what_is_near_to_the_exam_stays_out_of_training(root: Path, tmp_path: Path, tuneloop: Any) -> None:
    with opened(root) as app:
        path = file_of(app, tmp_path / "first.jsonl", tickets(60), ids=True)
    tuneloop("dataset", "import", path, "-w", root, "--draw")
    with opened(root) as app:
        exam = {one.record_id for one in queries.labelled(app.workspace.read, "tickets", side="exam")}
        texts = list(app.workspace.texts.many(sorted(exam)).values())
        again = file_of(app, tmp_path / "again.jsonl", [(text.upper() + "!", "general") for text in texts])
    assert tuneloop("dataset", "import", again, "-w", root).code == 0
    with opened(root) as app:
        assert len(queries.labelled(app.workspace.read, "tickets", side="exam")) == 2 * len(exam)
    assert all(
        one["where"].startswith("line")
        for one in tuneloop("dataset", "check", again, "-w", root, "--json").json["left_out"]
    )


def test_labels_corrected_in_an_editor_come_back(root: Path, tmp_path: Path, tuneloop: Any) -> None:
    with opened(root) as app:
        tuneloop("dataset", "import", file_of(app, tmp_path / "in.jsonl", tickets(10), ids=True), "-w", root)
    out = tmp_path / "out.jsonl"
    assert tuneloop("dataset", "export", out, "--ids", "-w", root).code == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["id"] == "T-0"
    lines[0]["messages"][-1]["content"] = "general"
    lines[1]["messages"][-2]["content"] = "quite another text"
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    refused = tuneloop("dataset", "import", out, "-w", root, "--json").json
    assert (refused["known"], refused["quarantined"], refused["relabelled"]) == (8, 2, 0)
    assert [one["line"] for one in refused["problems"]] == [1, 2]
    assert "carries the label urgent; see --relabel" in refused["problems"][0]["reason"]
    assert "known with another text" in refused["problems"][1]["reason"]
    done = tuneloop("dataset", "import", out, "--relabel", "--as", "maria", "-w", root, "--json").json
    assert (done["known"], done["relabelled"]) == (8, 1)
    with opened(root) as app:
        first = queries.labelled(app.workspace.read, "tickets")[-1]
    assert (first.label, first.annotator) == ("general", "maria")


def test_records_without_a_name_of_their_own_are_found_by_ours(root: Path, tmp_path: Path, tuneloop: Any) -> None:
    with opened(root) as app:
        tuneloop("dataset", "import", file_of(app, tmp_path / "in.jsonl", tickets(6)), "-w", root)
    tuneloop("dataset", "export", tmp_path / "out.jsonl", "--ids", "-w", root)
    assert tuneloop("dataset", "import", tmp_path / "out.jsonl", "-w", root, "--json").json["known"] == 6


def test_lines_that_are_no_examples_are_told_and_kept(root: Path, tmp_path: Path, tuneloop: Any) -> None:
    path = tmp_path / "mixed.jsonl"
    turns = [{"role": "user", "content": "I paid twice"}, {"role": "assistant", "content": "Label: Billing."}]
    more = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, *turns]
    unknown = [turns[0], {"role": "assistant", "content": "sales"}]
    lines = [{"messages": turns}, {"messages": more}, {"messages": unknown}, {"messages": []}, {"text": "x"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"messages": [', encoding="utf-8")
    checked = tuneloop("dataset", "check", path, "-w", root, "--json").json
    assert [line for line, _ in checked["problems"]] == [3, 4, 5, 6]
    assert checked["per_class"] == {"billing": 1} and checked["left_out"][0]["where"] == "line 1"
    assert checked["warnings"][:3] == [
        "4 lines are no example",
        "2 lines have another form than the deployed prompt (zero-shot@1)",
        "1 lines hold more than one question: only the last one counts",
    ]
    done = tuneloop("dataset", "import", path, "-w", root)
    assert done.code == 0 and "2 new, 0 known already, 4 quarantined" in done.out
    assert "line 3: the last answer is none of the labels" in done.err
    kept = list((root / ".tuneloop" / "quarantine").iterdir())
    assert sum(len(one.read_bytes().splitlines()) for one in kept) == 4


def test_errors_say_what_is_wrong(root: Path, tmp_path: Path, tuneloop: Any) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("{}\n", encoding="utf-8")
    for words, code, said in (
        (["import", tmp_path / "missing.jsonl"], 4, "missing.jsonl cannot be read: No such file"),
        (["import", empty], 4, "could be taken in"),
        (["check", empty], 4, "holds no example: line 1: 'messages' is missing"),
        (["check", tmp_path], 4, "cannot be read"),
        (["show"], 4, "tickets has no frozen dataset yet"),
        (["show", "tickets-v9"], 4, "no dataset belongs to 'tickets-v9'"),
        (["export", tmp_path / "no" / "x.jsonl"], 4, "cannot be written"),
        (["export", "x.jsonl", "--side", "left"], 2, "--side is none of train, exam, all"),
        (["export", "x.jsonl", "--run", "tickets-run-1", "--side", "exam"], 2, "--side is of labels"),
        (["export", "-", "--json"], 2, "cannot share stdout"),
    ):
        shown = tuneloop("dataset", *words, "-w", root)
        assert shown.code == code and said in shown.err, (words, shown.err)
    assert not list(tmp_path.glob(".x*"))


# ---------------------------------------------------------------- before and after freezing


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ev.DatasetFrozen]]:
    """A workspace with 120 labels in which something is wrong with some of them, frozen as the daemon does it."""
    root = make(tmp_path_factory.mktemp("frozen") / "w")
    with opened(root) as app:
        pairs = [*tickets(110, ["billing", "technical"]), tickets(4)[0]]
        pairs += [(pairs[0][0].upper(), "technical"), (pairs[3][0] + " !", "technical")]
        path = file_of(app, root / "in.jsonl", pairs)
        exchange.import_file(app, "tickets", path)
        steps = Steps(app.workspace.paths.logs)
        command = FreezeDataset(task="tickets", run_id="tickets-run-1", plan="standard", trigger="117 labels")
        deadline = time.monotonic() + 60
        event = None
        while event is None:
            event = datasets.freeze(app, steps, app.state().task("tickets"), app.settings.task("tickets"), command)
            assert time.monotonic() < deadline
            time.sleep(0.02)
        trained = ev.TrainingSucceeded(
            task="tickets", run_id="tickets-run-1", artifact="", steps=60, epochs=3.0, seconds=1.0, train_loss=0.9,
            eval_accuracy=None, temperature=1.0, peak_memory_mb=900.0, stopped="steps", truncated=2,
            tokens={
                "examples": 120, "shortest": 30, "median": 50, "p95": 90, "longest": 512, "total": 6000, "learned": 300,
            },
        )  # fmt: skip
        drafts = [Draft(event, "run/tickets-run-1"), Draft(trained, "run/tickets-run-1")]
        app.workspace.log.append(drafts, actor="daemon", now=app.now())
        app.workspace.projections.catch_up()
    yield root, event


def test_the_event_counts_every_step_with_its_reason(frozen: tuple[Path, ev.DatasetFrozen]) -> None:
    _, event = frozen
    counts = {one.step: one for one in event.curation}
    assert list(counts) == [
        "labels", "leaks", "duplicates", "capped", "failures", "suspects", "validation", "repeated", "general",
    ]  # fmt: skip
    assert counts["labels"].count == 113 and counts["duplicates"].count == 2
    assert counts["duplicates"].detail == "cosine of at least 0.9 by TF-IDF; the newest stays"
    assert event.rare == ["urgent", "general"] and event.per_class["urgent"] == 1
    assert counts["repeated"].detail == "examples shown again: urgent x5" and counts["repeated"].count == 4
    assert all(one.detail for one in event.curation)
    assert any("1 near-duplicates carry different labels" in one for one in event.warnings)


def test_rare_classes_are_rendered_as_often_as_they_weigh(frozen: tuple[Path, ev.DatasetFrozen]) -> None:
    root, event = frozen
    with opened(root) as app:
        items = exchange.read_lines(app.workspace.artifacts.path(event.artifact) / "dataset.jsonl", exchange.Item)
        assert {one.copies for one in items if one.label == "urgent"} == {5}
        base = datasets.BaseModelRef(path="/nowhere", digest="")
        rules = app.settings.task("tickets")
        spec = datasets.training_spec(app, rules, base, run_id="tickets-run-1", adapter="tickets-v1", plan="standard")
        with app.workspace.rendering():
            rows = datasets.rendered(app, rules, spec, items)
    assert sum(one.label == "urgent" for one in rows["train"]) == 5
    assert len(rows["train"]) == event.train + 4 + next(one.count for one in event.curation if one.step == "general")


def test_show_tells_it_to_people_and_programs(frozen: tuple[Path, ev.DatasetFrozen], tuneloop: Any) -> None:
    root, event = frozen
    told = tuneloop("dataset", "show", "-w", root)
    assert told.code == 0
    for words in (
        "dataset of tickets-run-1 (standard, 117 labels)", "cosine of at least 0.9 by TF-IDF", "per class: ",
        "warning: ", "tokens per example: 30 to 512, median 50, 95% up to 90; 300 of 6,000 are learned; 2 of 120",
    ):  # fmt: skip
        assert words in " ".join(told.out.split()), words
    values = tuneloop("dataset", "show", "tickets-run-1", "-w", root, "--json").json
    assert values["artifact"] == event.artifact and values["truncated"] == 2 and values["tokens"]["longest"] == 512
    assert [one["step"] for one in values["left_out"] if one["near"]] == ["duplicates", "duplicates"]
    assert {one["step"] for one in values["left_out"] if not one["near"]} == {"capped"}


def test_check_foretells_what_freezing_does_and_changes_nothing(
    frozen: tuple[Path, ev.DatasetFrozen], tuneloop: Any
) -> None:
    root, event = frozen
    with opened(root) as app:
        before = app.workspace.log.head()
    found = tuneloop("dataset", "check", "-w", root, "--json").json
    assert found["curation"] == [{"step": one.step, "count": one.count, "detail": one.detail} for one in event.curation]
    assert (found["train"], found["valid"], found["rare"]) == (event.train, event.valid, event.rare)
    with opened(root) as app:
        assert app.workspace.log.head() == before


def test_a_frozen_dataset_is_exported_as_it_was_trained_on(
    frozen: tuple[Path, ev.DatasetFrozen], tmp_path: Path, tuneloop: Any
) -> None:
    root, event = frozen
    general = next(one.count for one in event.curation if one.step == "general")
    for words, count in (
        ([], event.train + event.valid + general), (["--split", "valid"], event.valid),
        (["--split", "train", "--no-general"], event.train),
    ):  # fmt: skip
        done = tuneloop(
            "dataset", "export", tmp_path / "x.jsonl", "--run", "tickets-run-1", *words, "-w", root, "--json"
        )
        assert done.json["examples"] == count == len((tmp_path / "x.jsonl").read_bytes().splitlines())


def test_an_older_dataset_without_lists_is_shown(tmp_path: Path, tuneloop: Any) -> None:
    root = lived_in(tmp_path / "w")
    values = tuneloop("dataset", "show", "tickets-v1", "-w", root, "--json").json
    assert values["suspects"] == values["left_out"] == [] and values["tokens"] == {}
    shown = tuneloop("dataset", "show", "tickets-v1", "-w", root)
    assert "near-duplicates" in shown.out and "known once it has been trained on" in shown.out


def test_help_names_the_verbs(tuneloop: Any) -> None:
    shown = tuneloop("dataset", "--help")
    assert all(verb in shown.out for verb in ("show", "check", "export", "import"))
    assert "Example: tuneloop dataset check" in tuneloop("dataset", "check", "--help").out
    assert tuneloop("dataset").code in (0, 2)
