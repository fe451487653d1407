"""`train --plan`: what a training would take, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loop.cli.output import builtins, emit, progress_line, say, show, span, styled, table

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.planning import TrainingPlan
    from loop.state import Plan

WORDS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "process": "libraries and workspace",
}
SHOWN = ("method", "targets", "rank", "learning_rate", "batch_size", "micro_batch_size", "max_length")


def show_plan(app: App, task: str, recipe: Plan, *, probe: bool, as_json: bool) -> None:
    """Make a plan and print it."""
    from loop.planning import make_plan

    tell = progress_line()
    plan = make_plan(app, task, recipe, measure=probe, waiting=lambda: tell("making a few steps on this machine"))
    tell("")
    if as_json:
        emit({**builtins(plan), "total": plan.memory.total})
    else:
        _print(plan)


def _print(plan: TrainingPlan) -> None:
    found = plan.probe
    say(styled(f"{plan.plan} training of {plan.task}", "bold"), f" on {found.device}, in {found.compute}")
    say(", ".join(f"{name} {plan.settings[name]}" for name in SHOWN if name in plan.settings))
    share = plan.trainable / plan.parameters
    say(f"{plan.trainable:,} trainable parameters of {plan.parameters:,} ({share:.2%})")
    cut = f", {found.shortened} tickets shortened" if found.shortened else ""
    say(f"{found.examples} examples, the longest of {found.longest} tokens{cut}; micro-batches up to {found.tokens}")
    for note in found.notes:
        say(styled(note, "yellow"))
    rows = [(words, _size(getattr(plan.memory, part))) for part, words in WORDS.items()]
    show(table(["memory", "estimate"], [*rows, ("together", _size(plan.memory.total))], right=["estimate"]))
    if found.peak:
        say(f"measured over the first steps: {_size(found.peak)}")
    fits = styled("fits", "green") if plan.fits else styled("does not fit", "red")
    say(fits, f": {_size(found.free)} are free on this {'GPU' if found.device.startswith('cuda') else 'machine'}")
    if not plan.fits:
        say("Lower training.micro_batch_size or training.max_length, or choose a smaller model or a 4-bit base.")
    if plan.seconds:
        say(
            f"{found.steps} steps ({found.epochs:g} epochs) of {found.step_seconds:.2f} s: "
            f"about {span(plan.seconds)}, looks at the validation examples not counted"
        )
    else:
        say(f"{found.steps} steps ({found.epochs:g} epochs); without a probe no time is told")


def _size(bytes_: float) -> str:
    return f"{bytes_ / 2**30:.2f} GiB"
