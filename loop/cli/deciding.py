"""`train`, `evaluate`, `gate`, `promote` and `rollback`: what people ask of the loop, and its verdicts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import AsJson, Reason, TaskName, choose_task, open_app
from loop.cli.output import emit, note, say, show, styled, table
from store.errors import InputError, UsageError
from store.kill_points import reached

if TYPE_CHECKING:
    from loop.bootstrap import App

NOT_PROMOTED = 9  # the exit code of store.errors.GateRefused
PLANS = ("standard", "gentle", "overnight")
OUTCOME_STYLES = {"promote": "green", "pass": "green", "reject": "red", "fail": "red"}


def train(
    ctx: typer.Context,
    task: TaskName = "",
    recipe: Annotated[
        str, typer.Option("--recipe", help="standard, gentle (against forgetting) or overnight.")
    ] = "standard",
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the candidate is judged.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would take: parameters, memory, time. Trains nothing.")
    ] = False,
    probe: Annotated[bool, typer.Option(help="With --plan: measure a few steps on this machine.")] = True,
    as_json: AsJson = False,
    reason: Reason = "",
) -> None:
    """Train with the labels there are, without waiting for the next threshold.

    The daemon does it. Where none runs, the loop runs here until the candidate is judged.
    """
    from loop import actions

    if recipe not in PLANS:
        raise UsageError(f"there is no recipe {recipe!r}", hint=f"Recipes: {', '.join(PLANS)}.")
    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        if plan:
            from loop.cli import planned

            planned.show_plan(app, name, recipe, probe=probe, as_json=as_json)  # type: ignore[arg-type]
            return
        actions.request_training(app, name, plan=recipe, reason=reason)  # type: ignore[arg-type]
        say(f"asked for a {recipe} training of {name}")
        _see_through(app, name, wait)


def evaluate(
    ctx: typer.Context,
    adapter: Annotated[str, typer.Argument(help="An adapter's name; without it the newest.")] = "",
    task: TaskName = "",
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is judged.")] = False,
    reason: Reason = "",
) -> None:
    """Look at the exam again for an adapter and judge it anew. Every look is spent: see max_looks of the gate."""
    from loop import actions
    from loop.cli import reads

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        chosen = reads.the_adapter(app.workspace, name, adapter)["name"]
        actions.request_evaluation(app, name, chosen, reason=reason)
        say(f"asked for another look at {chosen}")
        _see_through(app, name, wait)


def gate(
    ctx: typer.Context,
    adapter: Annotated[str, typer.Argument(help="An adapter's name; without it the one judged last.")] = "",
    task: TaskName = "",
    as_json: AsJson = False,
) -> None:
    """Show the gate's last verdict with every check. The exit code is 9 when it was not "promote"."""
    from loop.cli import reads

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        chosen = reads.the_adapter(app.workspace, name, adapter)["name"] if adapter else ""
        found = reads.last_evaluation(app.workspace, name, chosen, judged=True)
    if found is None:
        raise InputError(
            f"{chosen} has not been judged yet" if chosen else "no candidate has been judged yet",
            hint="`tuneloop status` says what the loop waits for.",
        )
    if as_json:
        emit(verdict_values(found))
    else:
        print_verdict(found)
    if found["verdict"] != "promote":
        raise typer.Exit(NOT_PROMOTED)


def promote(
    ctx: typer.Context,
    answerer: Annotated[str, typer.Argument(help="An adapter, or the baseline prompt.")],
    task: TaskName = "",
    force: Annotated[bool, typer.Option("--force", help="Against the gate's verdict; the log says so.")] = False,
    reason: Reason = "",
) -> None:
    """Let an answerer serve production from now on. Refused (exit code 9) when the gate has not said "promote"."""
    from loop import actions

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        done = actions.promote(app, name, answerer, force=force, reason=reason)
        say(f"{answerer} is the champion of {name}" if done else f"{answerer} is the champion of {name} already")
        _point_production(app)


def rollback(
    ctx: typer.Context,
    task: TaskName = "",
    to: Annotated[str, typer.Option("--to", help="An earlier answerer; without it the one before the champion.")] = "",
    reason: Reason = "",
) -> None:
    """Put the previous answerer back. Production gets its answers with the next request."""
    from loop import actions

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        before = app.state().task(name).champion.answerer
        actions.rollback(app, name, to=to, reason=reason)
        app.workspace.projections.catch_up()
        say(f"{app.state().task(name).champion.answerer} is the champion of {name} again (was {before})")
        _point_production(app)


def verdict_values(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What the gate said, as JSON values."""
    wanted = (
        "task",
        "candidate",
        "champion",
        "baseline",
        "verdict",
        "summary",
        "checks",
        "exam",
        "look",
        "evaluation_id",
    )
    return {name: evaluation[name] for name in wanted}


def print_verdict(evaluation: dict[str, Any]) -> None:
    """What the gate said, for people."""
    verdict = evaluation["verdict"]
    say(
        styled(f"{evaluation['candidate']}: ", "bold"),
        styled(verdict, OUTCOME_STYLES.get(verdict, "yellow")),
        f" (look {evaluation['look']}, {evaluation['exam']} exam items)",
    )
    show(
        table(
            ["check", "outcome", "detail"],
            [
                (
                    check["name"],
                    styled(check["outcome"], OUTCOME_STYLES.get(check["outcome"], "yellow")),
                    check["detail"],
                )
                for check in evaluation["checks"]
            ],
            free=["detail"],
        )
    )
    say(evaluation["summary"])


def _see_through(app: App, task: str, wait: bool) -> None:
    """Leave it to a daemon that runs, or watch it; without one do the loop's work here."""
    from loop.cli import driving, reads
    from loop.lease import holder
    from loop.logs import configure

    configure(level=logging.WARNING)  # the progress line stands for the rest
    last = reads.last_evaluation(app.workspace, task, judged=True)
    if holder(app.workspace.paths.run):
        if not wait:
            say("the daemon takes it from here; `tuneloop status --watch` shows how far it is")
            return
        driving.watch_until(app, lambda: driving.rests(app, task), task)
    else:
        note("no daemon runs: the loop works here until it rests (Ctrl-C stops cleanly, and it can be resumed)")
        driving.tick_until(app, lambda _: driving.rests(app, task))
    app.workspace.projections.catch_up()
    verdict = reads.last_evaluation(app.workspace, task, judged=True)
    if verdict is not None and (last is None or verdict["evaluation_id"] != last["evaluation_id"]):
        print_verdict(verdict)
    from loop.policy import waits

    for clause in waits(app.state(), app.settings, task):
        say(f"{task} waits for: {clause}")


def _point_production(app: App) -> None:
    """Let production have the new champion at once, not only with the daemon's next tick."""
    from loop import serving
    from loop.services import read_endpoints
    from store.errors import TuneloopError

    reached("action.deployment_recorded")
    endpoints = read_endpoints(app.workspace.paths.run)
    try:
        moved = serving.point_production(app, endpoints.engine)
    except TuneloopError as error:
        note(f"production still gets the answerer before it: {error.message}")
        return
    if not (endpoints.gateway or endpoints.engine):
        note("nothing serves here now; `tuneloop run` or `tuneloop serve` will serve it")
    elif moved:
        say(f"production gets its answers with the next request ({', '.join(moved)})")
    elif not endpoints.engine:
        note("the engine is loading its model; production gets its answers as soon as it is up")
