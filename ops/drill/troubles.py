"""What goes wrong, in which order, and how the runbook cures it: one entry for each alert and each way to cure it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
from world import DESK, DISK_GATEWAY, ENDPOINT, GATEWAY, SLOW_SECONDS, TICKETS, Failed, World, end

from loop.bootstrap import open_app
from loop.services import read_endpoints
from store import events as ev
from store.log import Draft


class Entry(msgspec.Struct, frozen=True):
    """One trouble. `told`: what `status`, `doctor` or something under "Look at" has to say of it; `message`: what a
    notification says; `workspace`: whose alert it is."""

    alert: str
    how: str
    provoke: Callable[[World], None]
    told: str
    cured_by: str
    cure: Callable[[World], None]
    message: str = ""
    workspace: str = "support"


def tickets(start: int, count: int) -> list[dict[str, str]]:
    lines = TICKETS.read_text(encoding="utf-8").splitlines()[start : start + count]
    return [json.loads(line) for line in lines]


def nothing(_: World) -> None:
    pass


# ---------------------------------------------------------------- the machine and its parts


def without_a_model(world: World) -> None:
    world.start_daemon(PIP_NO_INDEX="1")  # as without a network: it cannot bring the model in itself
    world.until(world.metrics, "the gateway answers", 60)


def bring_the_model_in(world: World) -> None:
    world.do("python -m adapters.base_model")
    world.until(lambda: read_endpoints(world.root / ".tuneloop" / "run").engine, "the engine is up", 180)


def examples(world: World) -> None:
    """Labels enough for a prompt to be chosen: but the one that is named does not exist."""
    chosen = tickets(0, 60)
    world.drop("examples.jsonl", [{"text": one["text"], "label": one["label"]} for one in chosen])


def name_a_prompt(world: World) -> None:
    world.settings()
    world.do("systemctl restart tuneloop@support")
    world.until(lambda: world.history("PromptAdopted"), "a prompt is adopted")


def bad_lines(world: World) -> None:
    time.sleep(3)  # Prometheus has to have seen the number rise
    lines = [json.dumps({"id": f"q{n}", "text": f"line {n}, {n * 7919 % 9973}"}) for n in range(150)]
    world.drop("bad.jsonl", [line[:-1] for line in lines])


def mend_the_lines(world: World) -> None:
    mended = []
    for path in sorted((world.root / ".tuneloop" / "quarantine").iterdir()):
        mended += [line + "}" for line in path.read_text().splitlines() if line.startswith('{"id": "q')]
    if len(mended) != 150:
        raise Failed(f"{len(mended)} of 150 lines lie in .tuneloop/quarantine")
    world.drop("mended.jsonl", list(mended))
    world.until(lambda: "150:" in world.shell("tuneloop status")[1] or records(world) >= 150, "the lines are in")


def records(world: World) -> int:
    status = json.loads(world.shell("tuneloop status --json")[1])
    return int(status["tasks"]["tickets"]["records"]["total"])


def open_queue(world: World) -> int:
    status = json.loads(world.shell("tuneloop status --json")[1])
    return int(status["tasks"]["tickets"]["queue"]["open"])


def many_records(world: World) -> None:
    lines = [{"id": one["id"], "text": one["text"], "answer": "general"} for one in tickets(100, 200)]
    world.drop("records.jsonl", lines)


def label_them(world: World) -> None:
    before = open_queue(world)
    world.label("tuneloop review --as NAME", before - 60)
    if open_queue(world) > 80:
        raise Failed(f"{open_queue(world)} still wait of {before}")


def stop(world: World) -> None:
    assert world.daemon is not None
    world.daemon.send_signal(signal.SIGSTOP)


def let_it_go_on(world: World) -> None:
    world.do("kill -CONT PID")


def take_over(world: World) -> None:
    old = world.daemon
    assert old is not None
    world.stands("tuneloop run --take-over")
    world.start_daemon("--take-over")
    time.sleep(3)
    world.do("kill -9 PID", PID=old.pid)
    world.until(lambda: ("TuneloopDaemonHangs", "support") not in world.firing(), "it ticks")
    world.until(lambda: 200 in world.ask(), "production is answered")


def kill(world: World) -> None:
    assert world.daemon is not None
    world.daemon.kill()
    world.daemon.wait()


def start_again(world: World) -> None:
    world.do("systemctl start tuneloop@support")
    world.until(world.metrics, "the gateway answers", 60)
    world.do("tuneloop doctor --fix")


def serve_alone(world: World) -> None:
    world.stop_daemon()
    world.names["SERVE"] = world.start(["tuneloop", "serve", "--port", str(GATEWAY)], "serve.log").pid


def stop_serving(world: World) -> None:
    os.kill(int(str(world.names["SERVE"])), signal.SIGTERM)
    world.do("systemctl start tuneloop@support")
    up = "tuneloop_daemon_running 1"
    world.until(lambda: up in world.metrics(), "the daemon and its gateway are up", 60)


def break_settings(world: World) -> None:
    path = world.root / "tuneloop.toml"
    path.write_text(path.read_text().replace("gateway_port", "gateway_prot", 1))


def mend_settings(world: World) -> None:
    world.settings()


def pause(world: World) -> None:
    world.shell("tuneloop pause --reason 'a drill'")


def resume(world: World) -> None:
    world.do("tuneloop resume")


# ---------------------------------------------------------------- what is stored


def verify(world: World) -> None:
    world.do("tuneloop verify")


def back_up(world: World) -> None:
    world.do("tuneloop backup DIR --keep 7", DIR=world.folder / "copies")


def newest_backup(world: World) -> Path:
    return max(path for path in (world.folder / "copies").iterdir() if path.name.startswith("tuneloop-"))


def damage_artifact(world: World) -> None:
    artifacts = world.root / ".tuneloop" / "artifacts"
    folder = next(path for path in sorted(artifacts.iterdir()) if (path / "adapter_model.safetensors").exists())
    world.names["ADDRESS"] = folder.name
    # another backup, which has it
    world.shell(f"tuneloop backup {world.folder / 'copies'}")
    file = folder / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()  # not the backup's: it is a hard link
    file.write_bytes(content)
    world.shell("tuneloop verify")


def put_artifact_back(world: World) -> None:
    command = "rm -r .tuneloop/artifacts/ADDRESS && cp -a BACKUP/state/artifacts/ADDRESS .tuneloop/artifacts/"
    world.do(command, BACKUP=newest_backup(world))
    world.do("tuneloop verify")


def damage_tables(world: World) -> None:
    with sqlite3.connect(world.root / ".tuneloop" / "tuneloop.sqlite") as connection:
        connection.execute("DELETE FROM records WHERE record_id IN (SELECT record_id FROM records LIMIT 3)")
    connection.close()
    world.shell("tuneloop verify")


def rebuild(world: World) -> None:
    world.do("tuneloop doctor --fix")
    world.do("tuneloop verify")


def damage_log(world: World) -> None:
    with sqlite3.connect(world.root / ".tuneloop" / "tuneloop.sqlite") as connection:
        connection.execute("DROP TRIGGER events_are_never_updated")
        connection.execute("UPDATE events SET actor = 'somebody' WHERE position = 7")
    connection.close()
    world.shell("tuneloop verify")


def restore(world: World) -> None:
    kept = records(world)
    world.do("systemctl stop tuneloop@support")
    world.do("tuneloop restore BACKUP --yes", BACKUP=newest_backup(world))
    world.do("systemctl start tuneloop@support")
    world.until(world.metrics, "the gateway answers", 60)
    world.do("tuneloop verify")
    if records(world) != kept:
        raise Failed(f"{records(world)} of {kept} records came back")


# ---------------------------------------------------------------- steps


def too_little_memory(attempts: int) -> Callable[[World], None]:
    def provoke(world: World) -> None:
        before = len(failures(world))
        world.settings(resources={"memory_limit_mb": 500}, training={"max_attempts": attempts})
        world.restart()
        time.sleep(3)
        world.shell("tuneloop train --reason 'a drill'")
        world.until(lambda: len(failures(world)) > before, "a step fails", 240)
        world.names["RUN"] = failures(world)[-1]

    return provoke


def failures(world: World) -> list[str]:
    """The runs whose training or evaluation failed, once for each time."""
    failed = world.history("TrainingFailed") + world.history("EvaluationFailed")
    return [one["stream"].removeprefix("run/") for one in sorted(failed, key=lambda one: one["position"])]


def succeeded(world: World) -> set[str]:
    return {one["stream"] for one in world.history("TrainingSucceeded")}


def give_it_memory(world: World) -> None:
    world.settings(training={"max_attempts": 50})
    world.do("systemctl restart tuneloop@support")
    world.until(lambda: f"run/{world.names['RUN']}" in succeeded(world), "the same run succeeds", 300)


def train_again(world: World) -> None:
    before = succeeded(world)
    world.settings()
    world.do("systemctl restart tuneloop@support")
    world.do("tuneloop train")
    world.until(lambda: succeeded(world) - before, "a training succeeds", 300)


def train_for_long(world: World) -> None:
    world.settings(training={"max_steps": 30, "min_steps": 30, "checkpoint_every": 2})
    world.restart()
    time.sleep(3)
    world.shell("tuneloop train --reason 'a drill'")
    runs = world.root / ".tuneloop" / "runs"
    world.until(lambda: list(runs.glob("*/checkpoints/checkpoint-*/COMPLETE")), "a checkpoint is there", 600)
    world.names["RUN"] = next(runs.glob("*/checkpoints/checkpoint-*")).parent.parent.name


def kill_the_step(world: World) -> None:
    run = world.root / ".tuneloop" / "runs" / str(world.names["RUN"])
    found = subprocess.run(["pgrep", "-f", f"adapters.train {run}"], capture_output=True, text=True, check=True)
    world.do("kill PID", PID=found.stdout.split()[0])
    world.until(lambda: resumed_from(world, run.name) > 0, "it goes on from its checkpoint", 60)
    world.until(lambda: f"run/{run.name}" in succeeded(world), "it succeeds", 600)


def resumed_from(world: World, run: str) -> int:
    """The step that the last attempt at a training began with."""
    starts = [one["event"] for one in world.history("TrainingStarted") if one["stream"] == f"run/{run}"]
    return int(starts[-1].get("resumed_from", 0))


# ---------------------------------------------------------------- answers


def bad_adapter(world: World) -> None:
    """An adapter is let through by force, and production corrects its answers."""
    world.settings()
    world.restart()
    world.shell("tuneloop promote tickets-v1 --force")
    world.until(lambda: "tickets-v1 (adapter)" in world.shell("tuneloop status")[1], "it serves")
    lines = [
        {"id": f"c{n}", "text": one["text"], "answer": "general", "answered_by": "tickets-v1"}
        for n, one in enumerate(tickets(300, 201))
    ]
    before = records(world)
    world.drop("first.jsonl", lines[200:])
    world.drop("first.feedback.jsonl", [{"id": "c200", "label": "billing"}])
    world.until(lambda: records(world) == before + 1, "the first answer is in")
    time.sleep(5)  # Prometheus has to have seen the numbers rise
    world.drop("answers.jsonl", lines[:200])
    world.until(lambda: records(world) == before + 201, "the answers are in")
    world.drop("late.feedback.jsonl", [{"id": f"c{n}", "label": "billing"} for n in range(150)])


def roll_back(world: World) -> None:
    world.do("tuneloop rollback")
    world.until(lambda: serving(world) == "zero-shot@1", "the prompt serves again")


def serving(world: World) -> str:
    status = json.loads(world.shell("tuneloop status --json")[1])
    return str(status["tasks"]["tickets"]["champion"]["answerer"])


def promoted_and_taken_back(world: World) -> None:
    # the first adapter never came to its exam: its run was parked for want of memory
    world.shell("tuneloop promote tickets-v2 --force")
    time.sleep(4)
    world.shell("tuneloop rollback --reason 'a drill'")
    world.names |= {"OLD": "zero-shot@1", "NEW": "tickets-v2"}


def endpoint_gone(world: World) -> None:
    world.settings(endpoint={"url": "http://127.0.0.1:9/v1", "model": "base"})
    world.restart()
    world.until(lambda: 502 in world.ask(), "production gets errors", 60)
    for _ in range(10):
        world.ask(2)


def adapter_answers(world: World) -> None:
    world.do("tuneloop promote tickets-vN --force")
    world.until(lambda: world.ask() == [200], "the adapter answers", 120)
    world.ask(3)


def endpoint_slow(world: World) -> None:
    world.shell("tuneloop rollback")
    world.endpoint = world.listen(ENDPOINT)
    world.endpoint.seconds = SLOW_SECONDS
    world.settings(endpoint={"url": f"http://127.0.0.1:{ENDPOINT}/v1", "model": "base"})
    world.restart()
    for _ in range(2):
        world.ask(10)


def endpoint_quick(world: World) -> None:
    world.endpoint.seconds = 0.0
    for _ in range(40):
        world.ask(5)
    world.settings()
    world.restart()


# ---------------------------------------------------------------- messages and the mirror


def somebody_listens(world: World) -> None:
    world.listen(DESK)
    world.do("tuneloop notify test NAME", NAME="desk")
    world.do("systemctl restart tuneloop@support")


def no_weights_and_biases(world: World) -> None:
    world.settings(wandb={"mode": "online"})
    world.stop_daemon()
    with open_app(world.root) as app:
        event = ev.LoopResumed(reason="of a drill")
        app.workspace.log.append([Draft(event, "loop")], actor="drill", now=app.now() - timedelta(hours=3))
    world.start_daemon(WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    world.until(world.metrics, "the gateway answers", 60)


def right_environment(world: World) -> None:
    world.settings()
    world.do("systemctl restart tuneloop@support")


# ---------------------------------------------------------------- the disk


def small_disk(free: int) -> Callable[[World], None]:
    def provoke(world: World) -> None:
        place = world.folder / "small"
        if not place.exists():
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3G", "tmpfs", str(place)], check=True)
            world.stack.callback(subprocess.run, ["umount", "-l", str(place)], check=False)
            world.shell(f"tuneloop init {place / 'w'} --labels a,b")
            settings = place / "w" / "tuneloop.toml"
            settings.write_text(
                settings.read_text().replace("# gateway_port = 0", f"gateway_port = {DISK_GATEWAY}")
                .replace("# mode = \"auto\"", 'mode = "offline"')
                .replace("# base = \"\"", 'base = "/nowhere"')
            )  # fmt: skip
            daemon = world.start(["tuneloop", "-w", str(place / "w"), "run"], "small.log")
            world.stack.callback(end, daemon)
            world.until(lambda: world.metrics(DISK_GATEWAY), "its gateway answers", 60)
        (place / "filling").unlink(missing_ok=True)
        with (place / "filling").open("wb") as file:
            for _ in range(max(0, shutil.disk_usage(place).free - free) >> 20):
                file.write(bytes(1 << 20))

    return provoke


def free_space(world: World) -> None:
    place = world.folder / "small"
    (place / "filling").unlink()
    world.drop("after.jsonl", [{"id": "x1", "text": "there is room again"}], place / "w")
    command = f"tuneloop -w {place / 'w'} history --type RecordReceived --json"
    world.until(lambda: bool(json.loads(world.shell(command)[1])), "what comes in is taken in")


ENTRIES = (
    # the first of all: doctor, which is part of every look, verifies
    Entry("TuneloopNotVerified", "nobody has verified it", without_a_model, r"never verified",
          "tuneloop verify", verify),
    Entry("TuneloopPartDown", "no base model and no network", nothing, r"engine +down",
          "python -m adapters.base_model", bring_the_model_in, "engine"),
    Entry("TuneloopBackupOld", "nobody has made a backup", nothing, r"backup +none is known",
          "tuneloop backup", back_up),
    Entry("TuneloopCommandKeepsFailing", "a prompt that does not exist", examples, r"tries again .*no-such-prompt",
          "the right name, and a restart", name_a_prompt),
    Entry("TuneloopQuarantineGrows", "150 broken lines", bad_lines, r"150 lines could not be read",
          "the lines, mended, in the inbox", mend_the_lines, "quarantine"),
    Entry("TuneloopQueueLong", "200 records and nobody who labels", many_records, r"queue +\d{2,} open",
          "tuneloop review", label_them),
    Entry("TuneloopStepsFail", "a memory limit of 500 MB", too_little_memory(50), r"TrainingFailed",
          "a larger limit, and a restart", give_it_memory, "training_failed"),
    Entry("TuneloopRunParked", "the same, tried once only", too_little_memory(1), r"parked",
          "the same, and tuneloop train", train_again, "parked"),
    Entry("TuneloopStepTakesLong", "a training of more than 3 s", train_for_long, r"training tickets-v\d+.* of 30",
          "kill PID: it goes on from its checkpoint", kill_the_step),
    Entry("TuneloopCorrectionsRise", "150 of 200 answers of an adapter corrected", bad_adapter,
          r"tickets-v1 \(adapter\)", "tuneloop rollback", roll_back, "promotion"),
    Entry("TuneloopRolledBack", "an adapter promoted and taken back", promoted_and_taken_back, r"AdapterRolledBack",
          "nothing: the old answerer serves", nothing, "rollback"),
    Entry("TuneloopPaused", "tuneloop pause", pause, r"paused: a drill", "tuneloop resume", resume),
    Entry("TuneloopNotifyDropped", "a webhook where nobody listens, 36 s long", promoted_and_taken_back, r"desk",
          "nothing: what happened is in the log", nothing),
    Entry("TuneloopNotifyFails", "the same again", promoted_and_taken_back, r"desk",
          "somebody listens, and a restart", somebody_listens),
    Entry("TuneloopGatewayErrors", "an endpoint where nobody listens", endpoint_gone, r"endpoint +down",
          "tuneloop promote: an adapter answers", adapter_answers),
    Entry("TuneloopGatewaySlow", "an endpoint that takes six seconds", endpoint_slow, r"endpoint +ok",
          "the endpoint's provider", endpoint_quick),
    Entry("TuneloopMirrorBehind", "Weights & Biases unreachable, an event of three hours ago", no_weights_and_biases,
          r"events? behind", "the environment corrected, and a restart", right_environment, "not mirrored"),
    Entry("TuneloopLogDamaged", "a bit of an adapter flipped, then tuneloop verify", damage_artifact,
          r"adapter_model.safetensors", "its folder from a backup", put_artifact_back),
    Entry("TuneloopLogDamaged", "rows of a read table deleted", damage_tables, r"read tables",
          "tuneloop doctor --fix", rebuild),
    Entry("TuneloopLogDamaged", "an event changed", damage_log, r"position 7|event 7", "tuneloop restore", restore),
    Entry("TuneloopDaemonHangs", "the daemon stopped (SIGSTOP)", stop, r"has not ticked",
          "kill -CONT", let_it_go_on),
    Entry("TuneloopDaemonHangs", "the same again", stop, r"has not ticked", "tuneloop run --take-over", take_over),
    Entry("TuneloopDown", "the daemon killed (SIGKILL)", kill, r"daemon +off", "a new start", start_again),
    Entry("TuneloopDaemonDown", "a gateway alone (tuneloop serve)", serve_alone, r"daemon +off",
          "a start", stop_serving),
    Entry("TuneloopWorkspaceUnreadable", "an unknown key in tuneloop.toml", break_settings, r"gateway_prot",
          "the key mended", mend_settings),
    Entry("TuneloopDiskLow", "a tmpfs with 1 GB left", small_disk(1 << 30), r"", "space freed", free_space,
          workspace="small"),
    Entry("TuneloopDiskFull", "the same with 100 MB left", small_disk(100 << 20), r"", "space freed", free_space,
          workspace="small"),
)  # fmt: skip
NOT_TRIED = {"TuneloopMemoryHigh": "the daemon does not grow so large"}
