"""Makes the alerts fire for real: a daemon, its gateway and a Prometheus, and one trouble after the other.

    python -P ops/prometheus/provoke.py [--only ALERT ...]

Needs `prometheus` on the PATH, and root for the two alerts about a full disk (a small tmpfs is mounted). The rules are
those of alerts.yml without their waiting times (`for`), so that it takes minutes and not a day; alerts_test.yml tests
those times. Prints each alert with what provoked it and the seconds until it fired. No model is needed: the engine
stays down, which is one of the troubles.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from adapters.specs import write_json
from loop.cli.main import main as tuneloop
from loop.production import Pointer
from store.prompting import PromptSpec

RULES = Path(__file__).parent / "alerts.yml"
GATEWAY, DISK_GATEWAY, PROMETHEUS, BROKEN_GATEWAY = 18990, 18991, 18992, 18993
SLOW_SECONDS = 6.0
PATIENCE = 240.0  # the slowest one waits for two minutes without a tick
NOT_PROVOKED = {
    "TuneloopMemoryHigh": "the daemon does not grow so large",
    "TuneloopStepTakesLong": "a step of six hours; tested by promtool alone",
    "TuneloopStepsFail": "needs the training stack; tested by promtool alone",
    "TuneloopRunParked": "needs the training stack; tested by promtool alone",
}
SETTINGS = f"""
[daemon]
gateway_port = {GATEWAY}
tick_seconds = 1.0
settle_seconds = 0.0
[model]
base = "/nowhere"
[wandb]
mode = "offline"
[notify.nobody]
kind = "webhook"
url = "http://127.0.0.1:9/"
events = ["degraded", "rollback", "labels_needed"]
give_up_hours = 0.005
[alerts]
after_seconds = 0.0
[tasks.tickets]
labels = ["billing", "general"]
prompt = "no-such-prompt@1"
[tasks.tickets.harvest]
every_seconds = 1.0
"""


class Slow(BaseHTTPRequestHandler):
    """An endpoint that thinks for long."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        time.sleep(SLOW_SECONDS)
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": "billing"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class World:
    """A workspace, its daemon, and the Prometheus that looks at it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.root = folder / "support"
        self.said: list[str] = []
        self.call("init", str(self.root), "--labels", "billing,general")
        (self.root / "tuneloop.toml").write_text(SETTINGS, encoding="utf-8")
        self.daemon = self.start("loop.cli.main", "-w", str(self.root), "run")
        self.prometheus()

    def call(self, *words: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            tuneloop(list(words))

    def tuneloop(self, *words: str) -> None:
        self.call("-w", str(self.root), *words)

    def start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        output = self.stack.enter_context((self.folder / "processes.log").open("ab"))
        environment = {**os.environ, "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words], stdout=output, stderr=output, env=environment
        )
        self.stack.callback(end, process)
        return process

    def prometheus(self) -> None:
        rules = re.sub(r"^ +for: .*\n", "", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (self.folder / "rules.yml").write_text(rules, encoding="utf-8")
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"workspace": name}}
            for port, name in ((GATEWAY, "support"), (DISK_GATEWAY, "small"), (BROKEN_GATEWAY, "broken"))
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "tuneloop", "static_configs": targets}],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        output = self.stack.enter_context((self.folder / "prometheus.log").open("ab"))
        words = [
            "prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{PROMETHEUS}",
            f"--storage.tsdb.path={self.folder / 'data'}",
        ]  # fmt: skip
        process = subprocess.Popen(words, cwd=self.folder, stdout=output, stderr=output)
        self.stack.callback(end, process)

    def drop(self, name: str, lines: list[object]) -> None:
        """Put a file into the inbox, whole."""
        part = self.root / "inbox" / f"{name}.part"
        part.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        part.rename(self.root / "inbox" / name)

    def firing(self) -> set[tuple[str, str]]:
        """(alert, workspace) of all that fire."""
        try:
            reply = httpx.get(f"http://127.0.0.1:{PROMETHEUS}/api/v1/alerts", timeout=5, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return set()
        alerts = [one["labels"] for one in reply["data"]["alerts"] if one["state"] == "firing"]
        return {(one["alertname"], one["workspace"]) for one in alerts}


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()


# ---------------------------------------------------------------- the troubles


def records(world: World) -> None:
    world.drop("a.jsonl", [
        {"id": f"r{n}", "text": f"ticket {n} about {n * 7919 % 9973}", "answer": "general", "answered_by": "old@1"}
        for n in range(150)
    ])  # fmt: skip


def corrections(world: World) -> None:
    time.sleep(5)  # Prometheus has to have seen the answers rise
    more = [{"id": f"s{n}", "text": f"letter {n} on {n * 104729 % 9973}", "answer": "general", "answered_by": "old@1"}
            for n in range(200)]  # fmt: skip
    world.drop("b.jsonl", more)
    time.sleep(5)
    world.drop("c.feedback.jsonl", [{"id": f"s{n}", "label": "billing"} for n in range(150)])


def bad_lines(world: World) -> None:
    time.sleep(3)
    world.drop("bad.jsonl", ["{broken"] * 150)


def examples(world: World) -> None:
    """Labels enough for the prompts to be compared, which cannot be: there is no such prompt."""
    world.drop("examples.jsonl", [{"text": f"example {n} {n * 31}", "label": ("billing", "general")[n % 2]}
                                  for n in range(30)])  # fmt: skip


def promotions(world: World) -> None:
    from loop.bootstrap import open_app
    from store import events as ev
    from store.log import Draft

    with open_app(world.root) as app:
        for name, before in (("first@1", ""), ("second@1", "first@1")):
            event = ev.AdapterPromoted(
                task="tickets", answerer=name, kind="prompt", previous=before, run_id="", gain=0.0
            )
            app.workspace.log.append([Draft(event, "deployment/tickets")], actor="provoke", now=app.now())
    time.sleep(4)
    world.tuneloop("rollback", "--reason", "to provoke an alert")


def pointed_at(world: World, url: str) -> None:
    prompt = PromptSpec(name="p@1", digest="", system="Classify.")
    pointer = Pointer(
        task="tickets", answerer="slow@1", kind="prompt", labels=["billing", "general"], prompt=prompt, upstream=url,
        position=1 << 40,
    )  # fmt: skip
    write_json(world.root / ".tuneloop" / "production" / "tickets.json", pointer)


def ask(times: int, port: int = GATEWAY) -> None:
    body = {"model": "tickets", "messages": [{"role": "user", "content": "hello"}]}
    threads = [
        threading.Thread(
            target=lambda: httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
        )
        for _ in range(times)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()


def errors(world: World) -> None:
    pointed_at(world, "http://127.0.0.1:9")
    ask(30)


def slowness(world: World) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    world.stack.callback(server.shutdown)
    pointed_at(world, f"http://127.0.0.1:{server.server_address[1]}")
    for _ in range(3):
        ask(10)


def damage(world: World) -> None:
    folder = world.folder / "made"
    folder.mkdir()
    (folder / "file").write_text("x" * 100)
    from loop.bootstrap import open_app

    with open_app(world.root) as app:
        address = app.workspace.artifacts.put(folder, "dataset", {})
        (app.workspace.artifacts.root / address / "file").write_text("y" * 100)
    world.tuneloop("verify")


def stalled_mirror(world: World) -> None:
    from loop.bootstrap import open_app
    from loop.services import read_endpoints
    from store import events as ev
    from store.log import Draft

    pid = read_endpoints(world.root / ".tuneloop" / "run").pids["tracking"]
    os.kill(pid, signal.SIGSTOP)
    world.stack.callback(os.kill, pid, signal.SIGCONT)
    with open_app(world.root) as app:
        event = ev.LoopResumed(reason="to provoke an alert")
        app.workspace.log.append([Draft(event, "loop")], actor="provoke", now=app.now() - timedelta(hours=3))


def stop(world: World) -> None:
    world.daemon.send_signal(signal.SIGSTOP)


def kill(world: World) -> None:
    world.daemon.kill()


def small_disk(world: World, free: int) -> None:
    place = world.folder / "small"
    if not place.exists():
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600M", "tmpfs", str(place)], check=True)
        world.stack.callback(subprocess.run, ["umount", "-l", str(place)], check=False)
        world.call("init", str(place / "w"), "--labels", "a,b")
        world.start("loop.gateway", str(place / "w"), "--port", str(DISK_GATEWAY))
    (place / "filling").unlink(missing_ok=True)
    (place / "filling").write_bytes(b"x" * max(0, shutil.disk_usage(place).free - free))


def broken_settings(world: World) -> None:
    root = world.folder / "broken"
    world.call("init", str(root), "--labels", "a,b")
    (root / "tuneloop.toml").write_text("broken [")
    world.start("loop.gateway", str(root), "--port", str(BROKEN_GATEWAY))


# which gateway an alert is about, where it is not that of the daemon
ELSEWHERE = {
    "TuneloopDiskLow": "small",
    "TuneloopDiskFull": "small",
    "TuneloopDaemonDown": "small",
    "TuneloopWorkspaceUnreadable": "broken",
}

Trouble = tuple[str, str, Callable[[World], None]]
TROUBLES: list[Trouble] = [
    ("TuneloopPartDown", "no base model, so no engine", lambda _: None),
    ("TuneloopNotVerified", "nobody has verified it", lambda _: None),
    ("TuneloopBackupOld", "nobody has made a backup", lambda _: None),
    ("TuneloopQueueLong", "150 records and nobody who labels", records),
    ("TuneloopCommandKeepsFailing", "a prompt that does not exist", examples),
    ("TuneloopQuarantineGrows", "150 broken lines", bad_lines),
    ("TuneloopCorrectionsRise", "150 of 200 answers corrected", corrections),
    ("TuneloopNotifyFails", "a webhook where nobody listens", lambda _: None),
    ("TuneloopNotifyDropped", "the same, with 18 s of patience", promotions),
    ("TuneloopRolledBack", "tuneloop rollback", promotions),
    ("TuneloopPaused", "tuneloop pause", lambda world: world.tuneloop("pause")),
    ("TuneloopGatewayErrors", "an endpoint where nobody listens", errors),
    ("TuneloopGatewaySlow", "an endpoint that takes six seconds", slowness),
    ("TuneloopMirrorBehind", "the mirror stopped (SIGSTOP), an event of three hours ago", stalled_mirror),
    ("TuneloopLogDamaged", "an artifact overwritten, then tuneloop verify", damage),
    ("TuneloopDaemonHangs", "the daemon stopped (SIGSTOP)", stop),
    ("TuneloopDown", "the daemon killed (SIGKILL); its gateway dies with it", kill),
    ("TuneloopDiskLow", "a tmpfs with 400 MB left", lambda world: small_disk(world, 400 << 20)),
    ("TuneloopDaemonDown", "a gateway without a daemon", lambda _: None),
    ("TuneloopWorkspaceUnreadable", "settings that are no TOML", broken_settings),
    ("TuneloopDiskFull", "the same with 100 MB left", lambda world: small_disk(world, 100 << 20)),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    console = Console(width=120)
    table = Table("alert", "provoked by", "fired after", box=None)
    missed = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        world = World(Path(name), stack)
        for alert, how, make in TROUBLES:
            if options.only and alert not in options.only:
                continue
            started = time.monotonic()
            make(world)
            wanted = (alert, ELSEWHERE.get(alert, "support"))
            while wanted not in world.firing() and time.monotonic() - started < PATIENCE:
                time.sleep(0.5)
            seconds = time.monotonic() - started
            fired = wanted in world.firing()
            missed += [] if fired else [alert]
            table.add_row(alert, how, f"{seconds:.0f} s" if fired else "NOT")
            console.print(f"{alert}: {'fired' if fired else 'did NOT fire'} ({seconds:.0f} s)")
    for alert, why in NOT_PROVOKED.items():
        table.add_row(alert, why, "–")
    console.print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
