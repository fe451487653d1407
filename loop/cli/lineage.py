"""Where an adapter came from: base, prompt, run, dataset, records and labels; where adapters and records went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from loop.cli.inspecting import result_of
from loop.cli.output import brief, builtins, percent, say, show, styled, table, when
from store import events as ev
from store.targets import as_class

if TYPE_CHECKING:
    from loop.bootstrap import App
    from store.log import Recorded

SHOWN_RECORDS = 12


def gather(app: App, task: str, adapter: str) -> dict[str, Any]:
    """Everything an adapter was made of, as JSON values.

    Raises:
        InputError: there is no such adapter.
        ArtifactError: its dataset is missing or damaged.
    """
    from loop.cli import reads

    row = reads.the_adapter(app.workspace, task, adapter)
    past = app.workspace.log.stream(f"run/{row['run_id']}")
    run = next(one for one in reads.listed(app.workspace, "runs", run_id=row["run_id"]))
    looks = reads.listed(app.workspace, "evaluations", task=task, candidate=row["name"])
    deployments = app.workspace.log.stream(f"deployment/{task}")
    records = _records(app, run["dataset"])
    return {
        "adapter": row["name"],
        "task": task,
        "status": row["status"],
        "artifact": row["artifact"],
        "base": {"model": run["base_model"], "digest": row["base_digest"], "quantisation": row["quantisation"]},
        "prompt": row["prompt"],
        "method": row["method"],
        "hyperparameters": run["hyperparameters"],
        "seed": run["seed"],
        "run": {
            "run_id": run["run_id"],
            "plan": run["plan"],
            "trigger": run["trigger"],
            "started_at": run["started_at"],
            "seconds": run["seconds"],
            "attempts": sum(isinstance(one.event, ev.TrainingStarted) for one in past),
        },
        "dataset": {
            "artifact": run["dataset"],
            "train": run["train"],
            "valid": run["valid"],
            "per_class": run["per_class"],
            "curation": run["curation"],
            "warnings": run["warnings"],
        },
        "records": records,
        "erased_since": [one["record_id"] for one in records if one["erased"]],
        "evaluations": [
            {
                "evaluation_id": look["evaluation_id"],
                "look": look["look"],
                "verdict": look["verdict"],
                "result": result_of(look, row["name"]),
                "artifact": look["artifact"],
            }
            for look in looks
        ],
        "deployments": [_deployment(one) for one in deployments if row["name"] in _names(one.event)],
        "events": [{"position": one.position, "type": one.type} for one in past],
    }


def show_tree(values: dict[str, Any]) -> None:
    """The lineage for people."""
    run, dataset, base = values["run"], values["dataset"], values["base"]
    say(styled(f"{values['adapter']} ", "bold"), f"({values['status']})")
    facts: list[tuple[object, object]] = [
        ("artifact", values["artifact"]),
        ("base model", f"{base['model']} ({base['quantisation']}), {base['digest'][:19]}"),
        ("prompt", values["prompt"]),
        ("method", f"{values['method']}, seed {values['seed']}"),
        ("settings", ", ".join(f"{name} {value}" for name, value in values["hyperparameters"].items())),
        (
            "run",
            f"{run['run_id']} ({run['plan']}): {run['trigger']}; attempts: {run['attempts']}, {run['seconds']:.0f} s",
        ),
        ("dataset", f"{dataset['artifact'][:19]}: {dataset['train']} to train on, {dataset['valid']} to validate"),
        ("per class", ", ".join(f"{label} {count}" for label, count in dataset["per_class"].items())),
    ]
    facts += [("curation", f"{one['step']}: {one['count']} {one['detail']}") for one in dataset["curation"]]
    facts += [("warning", warning) for warning in dataset["warnings"]]
    for look in values["evaluations"]:
        accuracy = percent(look["result"] and look["result"]["accuracy"])
        facts.append(("exam", f"{look['evaluation_id']}: {accuracy}, {look['verdict'] or 'not judged'}"))
    facts += [("deployment", f"{when(one['at'])} {one['what']}") for one in values["deployments"]]
    if values["erased_since"]:
        facts.append(("erased", styled(f"{len(values['erased_since'])} of its records were erased since", "red")))
    show(table(["", " "], facts, free=[" "], header=False))
    records = values["records"]
    if not records:
        return
    shown = [
        (
            brief(one["record_id"]),
            one["part"],
            as_class(one["label"]),
            one["annotator"] or "–",
            "erased" if one["erased"] else "",
        )
        for one in records[:SHOWN_RECORDS]
    ]
    show(table(["record", "part", "label", "labelled by", ""], shown))
    if len(records) > SHOWN_RECORDS:
        say(f"and {len(records) - SHOWN_RECORDS} more: tuneloop lineage {values['adapter']} --json")


def record_of(app: App, given: str) -> str:
    """Our id of the record that is named; empty where nothing or an adapter is.

    Raises:
        InputError: several records fit.
    """
    from loop.cli import reads

    if any(row["name"].startswith(given) for row in reads.listed(app.workspace, "adapters")):
        return ""
    found = reads.record_id(app, given)
    return found if reads.rows(app.workspace, "SELECT 1 FROM records WHERE record_id = ?", [found]) else ""


def gather_record(app: App, record_id: str) -> dict[str, Any]:
    """Which adapters saw a record, and in which part of their data, as JSON values."""
    from loop import elsewhere
    from loop.cli import reads

    (row,) = reads.rows(app.workspace, "SELECT task, label, erased FROM records WHERE record_id = ?", [record_id])
    shown = [
        {"prompt": one.event.prompt, "position": one.position, "at": one.recorded_at}
        for one in app.workspace.log.select("type = 'PromptAdopted'", [])
        if isinstance(one.event, ev.PromptAdopted) and record_id in one.event.shots
    ]
    seen = elsewhere.adapters_that_saw(app, [record_id])
    return builtins({"record_id": record_id, **row, "adapters": seen, "prompts": shown})  # type: ignore[no-any-return]


def show_record(values: dict[str, Any]) -> None:
    """The same for people."""
    erased = styled(", erased since", "red") if values["erased"] else ""
    say(styled(f"{values['record_id']} ", "bold"), f"({as_class(values['label'] or 'no label')})", erased)
    lines = [
        (one["adapter"], one["status"] or "not registered", ", ".join(one["records"])) for one in values["adapters"]
    ]
    lines += [(one["prompt"], "prompt", "shown as an example") for one in values["prompts"]]
    if lines:
        show(table(["seen by", "status", "in"], lines))
    else:
        say("no adapter and no prompt has seen it")


def _records(app: App, dataset: str) -> list[dict[str, Any]]:
    """The records of a dataset, with the label it froze."""
    from loop.cli import reads

    if not dataset:
        return []
    folder = app.workspace.artifacts.path(dataset)
    found: list[dict[str, Any]] = []
    for line in (folder / "dataset.jsonl").read_bytes().splitlines():
        entry = msgspec.json.decode(line)
        if entry.get("kind", "task") == "task":  # not the general examples, mixed in against forgetting
            found.append({"record_id": entry["id"], "part": entry["split"], "label": entry["label"]})
    known = {}
    for start in range(0, len(found), 500):
        chunk = [one["record_id"] for one in found[start : start + 500]]
        marks = ", ".join("?" * len(chunk))
        sql = f"SELECT record_id, annotator, erased FROM records WHERE record_id IN ({marks})"  # noqa: S608
        known.update({row["record_id"]: row for row in reads.rows(app.workspace, sql, chunk)})
    blank = {"annotator": "", "erased": False}
    return [
        {**one, "annotator": row["annotator"], "erased": row["erased"]}
        for one in found
        for row in [known.get(one["record_id"], blank)]
    ]


def _names(event: ev.Event) -> tuple[str, ...]:
    if isinstance(event, ev.AdapterPromoted):
        return (event.answerer, event.previous)
    return (event.answerer, event.rolled_back) if isinstance(event, ev.AdapterRolledBack) else ()


def _deployment(recorded: Recorded) -> dict[str, Any]:
    from loop.cli import words

    what = f"{'promoted' if recorded.type == 'AdapterPromoted' else 'rolled back'}: {words.line(recorded.event)}"
    return {"position": recorded.position, "at": recorded.recorded_at, "what": what, "event": builtins(recorded.event)}
