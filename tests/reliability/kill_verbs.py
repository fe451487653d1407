"""What people do to a workspace, killed in the middle, and done again by those who were not told that it is done.

The functions here run in `forked.workers`.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import forked
import kill_world as world
import msgspec
from kill_texts import answered, seeds

from store import events as ev
from store.workspace import Workspace

MORE = "more.jsonl"
# besides its own points every verb is killed at these, where it comes by
SHARED = ("log.written", "log.committed", "projections.folded")


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """A command of `tuneloop`.

    `says` is for those that do something else when they are repeated: people look whether the last event of this kind
    is there before they do it again.
    """

    name: str
    arguments: tuple[str, ...]
    points: tuple[str, ...] = ()
    says: type[ev.Event] | None = None
    settles: bool = False  # what it began is brought to its end by the daemon


VERBS: tuple[Verb, ...] = (
    Verb(name="ingest", arguments=("ingest", MORE), points=("log.written:2", "log.committed:2")),
    Verb(name="label", arguments=("label", "p100", "metal", "--as", "kim"), points=("action.record_checked",)),
    Verb(name="label again", arguments=("label", "p100", "fruit", "--as", "kim"), points=("action.record_checked",)),
    Verb(name="undo", arguments=("undo", "--as", "kim"), points=("action.record_checked",), says=ev.LabelGiven),
    Verb(name="skip", arguments=("skip", "p500"), points=("action.record_checked",), says=ev.ReviewSkipped),
    Verb(name="feedback", arguments=("feedback", "p101", "fruit")),
    Verb(name="pause", arguments=("pause", "-m", "tea")),
    Verb(name="resume", arguments=("resume",)),
    Verb(
        name="promote",
        arguments=("promote", "zero-shot@1"),
        points=(
            "action.deployment_checked",
            "action.deployment_recorded",
            "file.temporary_written",
            "production.pointer_moved",
        ),
        settles=True,
    ),
    Verb(
        name="rollback",
        arguments=("rollback",),
        points=("action.deployment_checked", "action.deployment_recorded"),
        says=ev.AdapterRolledBack,
        settles=True,
    ),
    Verb(
        name="verify",
        arguments=("verify", "--rebuild"),
        points=("projections.shadow_filled", "projections.swapped"),
    ),
    Verb(
        name="archive",
        arguments=("archive", "--before", "150"),
        points=("archive.segment_written", "archive.rows_emptied", "archive.recorded", "archive.shrunk"),
    ),
)


def template(root: Path) -> Path:
    """A workspace whose adapter serves, with records in the queue and a file to take in by hand."""
    world.make(root)
    world.fill(root, turns_bad=False)
    world.drop(root, "e-production.jsonl", answered("zero-shot@1", range(500, 506), wrong=False))
    assert world.run(root) == 0, world.logs(root)
    world.drop(root, MORE, [*answered("zero-shot@1", range(600, 625), wrong=True), *seeds(10, 700)], folder=".")
    return root


def stages(folder: Path) -> list[Path]:
    """The workspace before each verb, one after the other, and after the last."""
    found = [template(folder / "stage-0")]
    for number, verb in enumerate(VERBS, 1):
        root = world.copy(found[-1], folder / f"stage-{number}")
        code = do(root, verb)
        assert code == 0, f"{verb.name}: exit code {code}\n{world.logs(root)}"
        found.append(root)
    return found


def do(root: Path, verb: Verb, kill: str = "") -> int:
    """Do it once; its exit code. Nothing it has started is left."""

    def work() -> None:
        from loop.cli.main import main

        if verb.name == "skip":
            _skip(root, verb.arguments[1])
            return
        raise SystemExit(main([*verb.arguments, "-w", str(root)]))

    def in_root() -> None:
        import os

        os.environ["TUNELOOP_KILL_ROOT"] = str(os.getpid())
        os.chdir(root)
        work()

    code = forked.wait(forked.start(in_root, root / ".tuneloop/logs/verbs.log", world.environment(kill)), 60)
    world.gone(root)
    return code


def _skip(root: Path, name: str) -> None:
    """As the review screen does."""
    from loop import actions
    from loop.bootstrap import open_app
    from loop.intake import external_record_id

    with open_app(root) as app:
        actions.skip(app, external_record_id(world.TASK, name), annotator="kim")


def killed(verb: Verb, before: Path, root: Path, kill: str) -> tuple[dict[str, Any], bool]:
    """Do it on a copy of `before`, killed at `kill`, and again where it seems not done.

    Returns:
        What has become of the workspace, and whether the kill came to pass.
    """
    world.copy(before, root)
    try:
        told = _last(root, verb.says)
        code = do(root, verb, kill)
        assert code in (0, -signal.SIGKILL), f"{verb.name} at {kill}: exit code {code}\n{world.logs(root)}"
        if code and (verb.says is None or _last(root, verb.says) == told):
            again = do(root, verb)
            assert again == 0, f"{verb.name} after {kill}: exit code {again}\n{world.logs(root)}"
        return outcome(verb, root), code != 0
    finally:
        shutil.rmtree(root)


def outcome(verb: Verb, root: Path) -> dict[str, Any]:
    """What has become of a workspace."""
    if verb.settles:
        assert world.run(root) == 0, world.logs(root)
    return world.outcome(root)


def unharmed(verb: Verb, after: Path, root: Path) -> dict[str, Any]:
    """The outcome where nobody was killed: `after` is the workspace after the verb."""
    return outcome(verb, world.copy(after, root))


def _last(root: Path, kind: type[ev.Event] | None) -> int:
    """Position of the last event of a kind."""
    if kind is None:
        return 0
    with Workspace.open(root) as workspace:
        return max((one.position for one in workspace.log.read() if isinstance(one.event, kind)), default=0)
