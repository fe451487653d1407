"""`show`, `compare` and `lineage`: one thing, two things, and where a thing came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import AsJson, TaskName, choose_task, open_app
from loop.cli.deciding import OUTCOME_STYLES, print_verdict
from loop.cli.inspecting import event_values, interval, result_of
from loop.cli.output import brief, emit, note, percent, say, show, styled, table, when
from loop.cli.safe import plain
from loop.cli.sweep import print_sweep
from store.errors import InputError
from store.events import SweepCompleted, TrainingSucceeded
from store.targets import is_seal

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.cli.reads import Row
    from store.log import Recorded

ONE = {"records": "record", "runs": "run", "adapters": "adapter", "evaluations": "evaluation"}
LABEL_WIDTH = 22


def show_one(
    ctx: typer.Context,
    identifier: Annotated[
        str,
        typer.Argument(metavar="ID", help="A record, run, adapter, evaluation or log position; a beginning will do."),
    ],
    as_json: AsJson = False,
) -> None:
    """Show one thing with everything that happened to it: a record, a run, an adapter, an evaluation or an event."""
    from loop.cli import words

    with open_app(ctx) as app:
        kind, row = _find(app, identifier)
        if kind == "event":
            recorded = row["recorded"]
            if as_json:
                emit({"kind": "event", **event_values(recorded)})
            elif isinstance(recorded.event, SweepCompleted):
                print_sweep(recorded.event)
            else:
                _print_values(event_values(recorded))
            return
        stream = {"record": f"record/{row.get('record_id')}"}.get(kind, f"run/{row.get('run_id')}")
        past = app.workspace.log.stream(stream)
        if kind == "record":
            stored = next(app.workspace.texts.stored([row["record_id"]]), None)
            row = {
                **row,
                "external_id": stored.meta.get("id", "") if stored else "",
                "customer": stored.customer if stored else "",
                "text": stored.text if stored else None,
            }
            said = stored.said if stored else {}
            row |= {name: said.get(row[name], row[name]) for name in ("answer", "feedback", "label")}
        samples = _samples(app, past) if kind == "run" else []
    if as_json:
        more = {"samples": samples} if samples else {}
        emit({"kind": kind, **row, **more, "events": [event_values(one) for one in past]})
        return
    say(styled(f"{kind} {_name(kind, row)}", "bold"))
    if kind == "record":
        say()
        say(plain(row["text"], lines=True) if row["text"] is not None else styled("the text was erased", "red"))
        say()
    _print_values({name: value for name, value in row.items() if name != "text"})
    if kind == "evaluation" and row["verdict"]:
        print_verdict(row)
    if samples:
        shown = [(one["step"], brief(one["id"]), plain(one["expected"]), plain(one["answered"])) for one in samples]
        show(table(["step", "record", "wanted", "written"], shown, right=["step"], free=["wanted", "written"]))
    say()
    lines = [(one.position, when(one.recorded_at), one.type, words.line(one.event)) for one in past]
    show(table(["#", "when", "type", "what"], lines, right=["#"], free=["what"], least=["when", "#"]))


def compare(
    ctx: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="An adapter, a prompt version or the control.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    task: TaskName = "",
    as_json: AsJson = False,
) -> None:
    """Put two answerers side by side, on the newest exam that both have taken."""
    from loop.cli import reads

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        evaluations = [row for row in reads.listed(app.workspace, "evaluations", task=name) if row["results"]]
    common = next((row for row in reversed(evaluations) if _took(row, first) and _took(row, second)), None)
    sides = {answerer: common or _newest(evaluations, answerer) for answerer in (first, second)}
    for answerer, evaluation in sides.items():
        if evaluation is None:
            known = sorted({one["answerer"] for row in evaluations for one in row["results"]})
            raise InputError(
                f"{answerer!r} has taken no exam of {name}", hint=f"Evaluated so far: {', '.join(known) or 'nothing'}."
            )
    results = {answerer: _results(evaluation, answerer) for answerer, evaluation in sides.items()}
    paired = _paired(common, first, second)
    if as_json:
        exams = {answerer: evaluation["evaluation_id"] for answerer, evaluation in sides.items() if evaluation}
        emit({"task": name, "evaluations": exams, "results": results, "paired": paired})
        return
    if common is None:
        note("they have not taken the same exam: the numbers below are from different ones")
    else:
        say(f"{common['evaluation_id']}: {common['exam']} exam items, {common['hard_exam']} hard ones")
    _print_comparison(first, second, results, paired)


def lineage(
    ctx: typer.Context,
    adapter: Annotated[
        str, typer.Argument(metavar="[ADAPTER|RECORD]", help="An adapter's name (without it the newest), or a record.")
    ] = "",
    task: TaskName = "",
    as_json: AsJson = False,
) -> None:
    """Tell what an adapter was made of: base model, prompt, run, dataset, and every record with its label.

    Of a record it tells the adapters that were trained, validated or examined on it, also once it is erased.
    """
    from loop.cli import lineage as made_of

    with open_app(ctx) as app:
        if adapter and (record := made_of.record_of(app, adapter)):
            seen = made_of.gather_record(app, record)
            if as_json:
                emit(seen)
            else:
                made_of.show_record(seen)
            return
        name = choose_task(app.settings, task)
        values = made_of.gather(app, name, adapter)
    if as_json:
        emit(values)
        return
    made_of.show_tree(values)


# ---------------------------------------------------------------- show


def _find(app: App, given: str) -> tuple[str, Row]:
    """What an identifier names: exactly first, then as the beginning of one thing only, then as a log position.

    Raises:
        InputError: nothing or several things fit.
    """
    from loop.cli import reads

    found = reads.matches(app.workspace, given)
    exact = [(table_name, row) for table_name, row in found if row[reads.KINDS[table_name]] == given]
    if not exact and given.isdigit():
        recorded = next(app.workspace.log.read(after=int(given) - 1, limit=1), None)
        if recorded is not None and recorded.position == int(given):
            return "event", {"recorded": recorded}
    if not found:
        event = app.workspace.log.get(given)
        if event is not None:
            return "event", {"recorded": event}
        found = reads.matches(app.workspace, reads.record_id(app, given))
    if len(found) > 1:
        names = ", ".join(f"{ONE[table_name]} {row[reads.KINDS[table_name]]}" for table_name, row in found[:6])
        raise InputError(f"{given!r} fits several things", hint=f"For example: {names}.")
    if not found:
        raise InputError(
            f"nothing is named {given!r}", hint="`tuneloop history`, `adapters`, `runs` and `queue` list what there is."
        )
    return ONE[found[0][0]], found[0][1]


def _name(kind: str, row: Row) -> str:
    return str(row[{"record": "record_id", "run": "run_id", "adapter": "name", "evaluation": "evaluation_id"}[kind]])


def _print_values(values: dict[str, Any]) -> None:
    """Name and value, a line each; what is empty or has a table of its own is left out."""
    lines = []
    for name, value in values.items():
        if value in (None, "", [], {}) or value is False or name in ("checks", "results", "paired", "events"):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {inner}" for key, inner in value.items())
        elif isinstance(value, list):
            value = "; ".join(_in_one_line(inner) for inner in value)
        lines.append((name.replace("_", " "), value))
    show(table(["", " "], lines, free=[" "], header=False))


def _samples(app: App, past: Sequence[Recorded]) -> list[dict[str, str]]:
    """What a training's adapter wrote at each evaluation, beside what was wanted."""
    from loop import targets

    def said(sample: dict[str, str], name: str) -> str:
        value = sample.get(name, "")
        return (targets.words(app, sample["id"], value) or "") if is_seal(value) else value

    done = [one.event for one in past if isinstance(one.event, TrainingSucceeded)]
    return [
        {"id": one["id"], "step": one.get("step", ""), **{name: said(one, name) for name in ("expected", "answered")}}
        for one in (done[-1].samples if done else [])
    ]


def _in_one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(inner) for inner in value.values() if inner not in (None, ""))
    return str(value)


# ---------------------------------------------------------------- compare


def _took(evaluation: Row, answerer: str) -> bool:
    return any(one["answerer"] == answerer for one in evaluation["results"])


def _newest(evaluations: list[Row], answerer: str) -> Row | None:
    return next((row for row in reversed(evaluations) if _took(row, answerer)), None)


def _results(evaluation: Row | None, answerer: str) -> list[dict[str, Any]]:
    return [one for one in evaluation["results"] if one["answerer"] == answerer] if evaluation else []


def _paired(common: Row | None, first: str, second: str) -> list[dict[str, Any]]:
    """The paired comparisons that the evaluation made between the two, read as "first against second"."""
    if common is None or common["candidate"] not in (first, second):
        return []
    other = second if common["candidate"] == first else first
    found = [one for one in common["paired"] if one["opponent"] == other]
    if common["candidate"] == first:
        return found
    return [
        {
            **one,
            "opponent": second,
            "gained": one["lost"],
            "lost": one["gained"],
            "difference": -one["difference"],
            "low": -one["high"],
            "high": -one["low"],
        }
        for one in found
    ]


def _print_comparison(
    first: str, second: str, results: dict[str, list[dict[str, Any]]], paired: list[dict[str, Any]]
) -> None:
    rows: list[tuple[object, ...]] = []
    decodings = [one["decoding"] for one in results[first]] + [one["decoding"] for one in results[second]]
    for decoding in dict.fromkeys(decodings):
        left, right = (_under(results[name], decoding) for name in (first, second))
        metric = next((one["metric"] for one in (left, right) if one and one.get("metric")), "")
        shown = f"mean score ({metric})" if metric else f"accuracy ({decoding})"
        rows.append((shown, _accuracy(left), _accuracy(right)))
    left, right = (result_of({"results": results[name]}, name) or {} for name in (first, second))
    for label in dict.fromkeys([*left.get("recall", {}), *right.get("recall", {})]):
        values = [percent(side.get("recall", {}).get(label), 0) for side in (left, right)]
        rows.append((f"recall {label}", *values))
    metric = left.get("metric") or right.get("metric")
    invalid = "of another form" if metric else "no label"
    for name, shown in (("abstained", "abstained"), ("invalid", invalid), ("hard_correct", "hard exam right")):
        rows.append((shown, *[_of(side, name) for side in (left, right)]))
    rows.append(("latency", *[f"{side['latency_ms']:.0f} ms" if side else "–" for side in (left, right)]))
    rows.append(("calibration error", *[percent(side.get("ece")) for side in (left, right)]))
    show(table(["", first, second], rows, right=[first, second]))
    for one in paired:
        style = OUTCOME_STYLES["pass" if one["low"] > 0 else "fail"] if one["low"] > 0 or one["high"] < 0 else ""
        lead = (
            f"{one['metric']}: {first} is better {one['gained']} times than {second}, and {one['lost']} times worse: "
            if one.get("metric")
            else f"{one['decoding']}: {first} is right {one['gained']} times where {second} is wrong, "
            f"and wrong {one['lost']} times where it is right: "
        )
        say(
            lead,
            styled(
                f"{100 * one['difference']:+.1f} points ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})", style
            ),
            f", p = {one['p_value']:.3f}",
        )


def _under(results: list[dict[str, Any]], decoding: str) -> dict[str, Any] | None:
    return next((one for one in results if one["decoding"] == decoding), None)


def _accuracy(result: dict[str, Any] | None) -> str:
    return f"{percent(result['accuracy'])} ({interval(result)}, n={result['n']})" if result else "–"


def _of(result: dict[str, Any], name: str) -> str:
    if not result:
        return "–"
    of = result["hard_n"] if name == "hard_correct" else result["n"]
    return f"{result[name]}/{of}"
