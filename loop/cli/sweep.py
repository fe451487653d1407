"""`sweep`: a few settings compared on the validation examples."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from loop.cli.context import AsJson, TaskName, choose_task, open_app
from loop.cli.output import emit, percent, progress_line, say, show, span, styled, table
from store.errors import UsageError

if TYPE_CHECKING:
    from store.events import SweepCompleted, SweepTrial


def sweep(
    ctx: typer.Context,
    task: TaskName = "",
    rank: Annotated[str, typer.Option("--rank", help="LoRA ranks, separated by commas.")] = "",
    rate: Annotated[str, typer.Option("--rate", help="Learning rates.")] = "",
    targets: Annotated[str, typer.Option("--targets", help="Of attention-min, attention and all-linear.")] = "",
    steps: Annotated[int, typer.Option("--steps", min=0, help="Steps of every training; 0: as set.")] = 0,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Examples to train on, at most; 0: all. Leaves the control out.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=-1, help="Of every training; -1: as set.")] = -1,
    as_json: AsJson = False,
) -> None:
    """Train with a few settings beside the present ones and compare them on the validation examples, never on the exam.

    Nothing of it is deployed: it is recorded as one event, with the lines for tuneloop.toml of the best.
    """
    from loop.cli.inspecting import event_values
    from loop.sweep import Asked
    from loop.sweep import sweep as compare

    asked = Asked(
        ranks=_numbers("--rank", rank, int),
        rates=_numbers("--rate", rate, float),
        targets=[word.strip() for word in targets.split(",") if word.strip()],
        steps=steps,
        limit=limit,
        seed=None if seed < 0 else seed,
    )
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nothing is left behind
        signal.signal(number, signal.default_int_handler)
    tell = progress_line()
    with open_app(ctx) as app:
        try:
            recorded = compare(app, choose_task(app.settings, task), asked, say=tell)
        finally:
            tell("")
    if as_json:
        emit(event_values(recorded))
        return
    print_sweep(recorded.event)  # type: ignore[arg-type]
    say(f"recorded as event {recorded.position}; `tuneloop show {recorded.position}` shows it again")


def print_sweep(event: SweepCompleted) -> None:
    """What was compared and what came of it, for people."""
    say(styled(event.sweep_id, "bold"), f": {event.method} on {event.base_model} ({event.quantisation})")
    say(f"{event.train} examples to train on, {event.valid} to validate, seed {event.seed}, {span(event.seconds)}")
    show(
        table(
            ["settings", "right", "accuracy", "95%", "loss", "training loss", "steps", "seconds"],
            [_row(one, event) for one in event.trials],
            right=["right", "accuracy", "loss", "training loss", "steps", "seconds"],
            free=["settings"],
            least=["training loss", "steps", "95%", "seconds", "loss"],
        )
    )
    for one in event.trials:
        if one.failure:
            say(styled(f"{one.name} failed: {one.failure}", "red"))
    if event.control_correct is not None:
        share = percent(event.control_correct / event.valid if event.valid else None)
        say(f"the control (TF-IDF and regression, the same examples): {event.control_correct}/{event.valid}, {share}")
    _print_lead(event)


def _row(one: SweepTrial, event: SweepCompleted) -> tuple[object, ...]:
    name = one.name + (" (present)" if one.name == event.present else "")
    style = "green" if one.name == event.best else ""
    return (
        styled(name, style),
        f"{one.correct}/{event.valid}" if one.accuracy is not None else "–",
        percent(one.accuracy),
        f"{percent(one.low)} to {percent(one.high)}" if one.low is not None else "–",
        f"{one.valid_loss:.3f}" if one.valid_loss is not None else "–",
        f"{one.train_loss:.3f}" if one.train_loss is not None else "–",
        one.steps or "–",
        f"{one.seconds:.0f}",
    )


def _print_lead(event: SweepCompleted) -> None:
    if event.best == event.present:
        say("the present settings are the best of these")
        return
    lead = event.lead
    if lead is None:
        say(f"best: {event.best}; the present settings could not be tried")
    else:
        points = f"{100 * lead.difference:+.1f} points ({100 * lead.low:+.1f} to {100 * lead.high:+.1f})"
        chosen = f", the best of {event.comparisons} that were compared with it" if event.comparisons > 1 else ""
        say(f"best: {event.best}, {points} over the present settings, p = {lead.p_value:.3f}{chosen}")
        if event.beyond_noise:
            say(styled("more than noise", "green"))
        else:
            say(styled("no more than noise: more validation examples would tell", "yellow"))
    for line in toml_lines(event):
        say(line)


def toml_lines(event: SweepCompleted) -> list[str]:
    """The lines of tuneloop.toml that bring the best settings into force; only what differs from the present ones."""
    # JSON's strings and numbers are TOML's
    by_name = {one.name: one.settings for one in event.trials}
    best, present = by_name.get(event.best, {}), by_name.get(event.present, {})
    changed = {name: value for name, value in best.items() if present.get(name) != value}
    return [f"[tasks.{event.task}.training]", *(f"{name} = {json.dumps(value)}" for name, value in changed.items())]


Number = TypeVar("Number", int, float)


def _numbers(option: str, words: str, kind: type[Number]) -> list[Number]:
    try:
        return [kind(word) for word in words.split(",") if word.strip()]
    except ValueError:
        raise UsageError(
            f"{option} {words} is no list of numbers", hint=f"Write them with commas: {option} 8,16"
        ) from None
