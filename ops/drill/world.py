"""Where the runbook is tried: a workspace, its daemon, a Prometheus with our rules, and the runbook itself."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from loop.first_settings import default_toml

OPS = Path(__file__).parents[1]
BIN = Path(sys.executable).parent  # not resolved: a link leads out of the environment
TICKETS = OPS.parent / "examples" / "tickets" / "tickets.jsonl"
LABELS = ["billing", "general", "technical", "urgent"]
GATEWAY, DISK_GATEWAY, PROMETHEUS, DESK, ENDPOINT = 18990, 18991, 18992, 18993, 18994
# what stands in for the parts of a machine that are not here: the daemon's own output for the journal, its start for
# the unit's; the disk's health and a screen that never ends are left out
NOT_HERE = ("docker", "dmesg", "smartctl", "top", "systemctl list-timers", "systemctl status")
PROGRAMS = ("tuneloop", "systemctl", "journalctl", "docker", "dmesg", "smartctl", "top", "ps", "df", "du", "free",
            "grep", "kill", "python")  # fmt: skip
SLOW_SECONDS = 6.0


class Failed(Exception):
    """What the runbook says does not hold."""


def sections() -> dict[str, tuple[str, str]]:
    """What the runbook says of each alert, and under "" of all: (look at, do)."""
    text = (OPS / "runbook.md").read_text(encoding="utf-8")
    found = {"": ("", text.split("\n### ", 1)[0].split("```", 1)[0])}
    for part in text.split("\n### ")[1:]:
        look, do = re.findall(r"^- (?:Look at|Do): (.*)$", part, re.MULTILINE)
        found[part.split("\n", 1)[0]] = look, do
    return found


def spans(text: str) -> list[str]:
    """What stands between backticks, blocks of lines apart."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def filled(command: str, names: Mapping[str, object]) -> str:
    """A command with what stands for something (PID, RUN, ...) replaced by it."""
    for name, value in names.items():
        command = re.sub(rf"\b{name}\b", str(value), command)
    return command


class Endpoint(BaseHTTPRequestHandler):
    """An endpoint of prompts, and a webhook's target: it takes everything; how long it thinks is set from outside."""

    seconds = 0.0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        time.sleep(self.seconds)
        self._say({"choices": [{"message": {"role": "assistant", "content": "billing"}}]})

    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": "base", "object": "model"}]})

    def _say(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class World:
    """One workspace in use, with everything that an operator has at hand."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack, self.root = folder, stack, folder / "support"
        self.sections = sections()
        self.alert = ""
        self.names: dict[str, object] = {"PART": "engine", "NAME": "drill", "tickets-vN": "tickets-v1"}
        self.output = folder / "daemon.log"
        self.messages = folder / "messages.jsonl"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TUNELOOP_", "WANDB_"))},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb", "COLUMNS": "200",
            "OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", "TUNELOOP_MODELS": str(folder / "models"),
        }  # fmt: skip
        self.daemon: subprocess.Popen[bytes] | None = None
        self.endpoint = Endpoint

    # ------------------------------------------------------------ processes

    def start(self, words: list[str], log: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                words, cwd=self.root if self.root.exists() else self.folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, env={**self.environment, **environment},
            )  # fmt: skip
        self.stack.callback(end, process)
        return process

    def start_daemon(self, *words: str, **environment: str) -> None:
        """What `systemctl start tuneloop@support` does."""
        self.daemon = self.start(["tuneloop", "run", *words], self.output.name, **environment)
        self.names["PID"] = self.daemon.pid

    def stop_daemon(self) -> None:
        if self.daemon is not None:
            end(self.daemon)

    def restart(self, **environment: str) -> None:
        """After a change of the settings."""
        self.stop_daemon()
        self.start_daemon(**environment)
        self.until(lambda: self.metrics() != "", "the gateway is back", 60)

    def listen(self, port: int) -> type[Endpoint]:
        """Something listens there from now on; it thinks for `seconds` of the class that this gives."""
        handler: type[Endpoint] = type("Here", (Endpoint,), {})
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.stack.callback(server.server_close)
        self.stack.callback(server.shutdown)
        return handler

    # ------------------------------------------------------------ the workspace

    def settings(self, **changed: Any) -> None:
        """Write tuneloop.toml as `init` does, with a few values set; a section's name is that of the argument."""
        chosen: dict[str, dict[str, Any]] = {
            "daemon": {"gateway_port": GATEWAY, "tick_seconds": 1.0, "settle_seconds": 0.0},
            "wandb": {"mode": "offline"},
            "alerts": {"after_seconds": 0.0},
            "task": {"prompt": "zero-shot@1"},
            "harvest": {"every_seconds": 1.0},
            "trigger": {"first": 10_000},
            # looks at the exam are short, and decide nothing
            "splits": {"exam_share": 0.05},
            "gate": {"min_exam": 1},
            "rollback": {"enabled": False},
            "training": {
                "max_steps": 4, "min_steps": 1, "batch_size": 4, "micro_batch_size": 4, "max_length": 96,
                "checkpoint_every": 2, "general_share": 0.0, "samples": 0,
            },
        }  # fmt: skip
        for section, values in changed.items():
            chosen[section] = {**chosen.get(section, {}), **values}
        text = (
            default_toml(LABELS, overrides=chosen)
            + f"""
[notify.file]
kind = "command"
command = ["tee", "-a", "{self.messages}"]
[notify.desk]
kind = "webhook"
url = "http://127.0.0.1:{DESK}/"
give_up_hours = 0.01
"""
        )
        path = self.root / "tuneloop.toml"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)

    def drop(self, name: str, lines: list[Any], root: Path | None = None) -> None:
        """Put a file into the inbox, whole."""
        part = (root or self.root) / "inbox" / f"{name}.part"
        part.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        part.rename(part.with_name(name))

    def ask(self, times: int = 1) -> list[int]:
        """Status codes of the gateway's answers to as many tickets, asked at the same time."""
        body = {"model": "tickets", "messages": [{"role": "user", "content": "I was charged twice"}]}
        url = f"http://127.0.0.1:{GATEWAY}/v1/chat/completions"
        codes: list[int] = []

        def one() -> None:
            try:
                codes.append(httpx.post(url, json=body, timeout=60, trust_env=False).status_code)
            except httpx.HTTPError:
                codes.append(0)

        threads = [threading.Thread(target=one) for _ in range(times)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return codes

    def metrics(self, port: int = GATEWAY) -> str:
        """What /metrics says; empty where nobody answers."""
        try:
            return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5, trust_env=False).text
        except httpx.HTTPError:
            return ""

    def history(self, kind: str) -> list[dict[str, Any]]:
        said = self.shell(f"tuneloop history --type {kind} --json")[1]
        found: list[dict[str, Any]] = json.loads(said)
        return found

    # ------------------------------------------------------------ Prometheus

    def prometheus(self) -> None:
        """Our rules, without their waiting times, over a minute and not a day, and with small figures for long ones."""
        rules = (OPS / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
        rules = re.sub(r"^ +for: .*\n", "", rules, flags=re.MULTILINE)
        rules = re.sub(r"\[\d+[mhd]\]", "[1m]", rules)
        for long, short in (("> 6 * 3600", "> 3"), ("seconds_since_tick > 120", "seconds_since_tick > 70")):
            assert long in rules, long
            rules = rules.replace(long, short)
        (self.folder / "rules.yml").write_text(rules, encoding="utf-8")
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"workspace": name}}
            for port, name in ((GATEWAY, "support"), (DISK_GATEWAY, "small"))
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "tuneloop", "static_configs": targets}],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        words = [
            "prometheus", f"--config.file={self.folder / 'prometheus.yml'}",
            f"--web.listen-address=127.0.0.1:{PROMETHEUS}", f"--storage.tsdb.path={self.folder / 'data'}",
        ]  # fmt: skip
        self.start(words, "prometheus.log")

    def firing(self) -> set[tuple[str, str]]:
        """(alert, workspace) of all that fire."""
        try:
            reply = httpx.get(f"http://127.0.0.1:{PROMETHEUS}/api/v1/alerts", timeout=5, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return set()
        alerts = [one["labels"] for one in reply["data"]["alerts"] if one["state"] == "firing"]
        return {(one["alertname"], one["workspace"]) for one in alerts}

    # ------------------------------------------------------------ doing what the runbook says

    def shell(self, command: str, **environment: str) -> tuple[int, str]:
        """(exit code, all output) of a command line, run in the workspace's folder as the runbook has it."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.root, env={**self.environment, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def stands(self, command: str) -> None:
        """Raises Failed when the runbook does not say a command, for this alert or for all."""
        do = self.sections[self.alert][1]
        texts = [*self.sections[self.alert], self.sections[""][1]]
        texts += [self.sections[name][1] for name in re.findall(r"[Aa]s under (\w+)", do)]
        if command not in spans(" ".join(texts)):
            raise Failed(f"the runbook does not say `{command}`")

    def do(self, command: str, **names: object) -> str:
        """A command of the runbook's "Do" of this alert, word by word; its output.

        Raises:
            Failed: it does not stand there, or it failed.
        """
        self.stands(command)
        line = filled(command, {**self.names, **names})
        if line.startswith("systemctl start"):
            self.start_daemon()
            return ""
        if line.startswith("systemctl stop"):
            self.stop_daemon()
            return ""
        if line.startswith("systemctl restart"):
            self.restart()
            return ""
        code, said = self.shell(line)
        if code:
            raise Failed(f"`{line}` gave {code}: {said.strip()[-500:]}")
        return said

    def look(self) -> str:
        """Everything under "Look at" of this alert, and the first look; what all of it said.

        Raises:
            Failed: a file that it names is not there, or a command is none.
        """
        said = []
        for span in ("tuneloop status", "tuneloop doctor", *spans(self.sections[self.alert][0])):
            line = filled(span, self.names)
            if line.startswith(".tuneloop/"):
                place = self.root / line
                if not place.exists():
                    raise Failed(f"there is no {line}")
                said.append(place.read_text(errors="replace")[-4000:] if place.is_file() else "")
            elif line.startswith("journalctl"):
                said.append(self.output.read_text(errors="replace")[-4000:])
            elif line.split()[0] in PROGRAMS and not line.startswith(NOT_HERE):
                code, words = self.shell(line)
                if code not in (0, 1, 3, 5) or "No such command" in words:
                    raise Failed(f"`{line}` gave {code}: {words.strip()[-500:]}")
                said.append(words)
        return "\n".join(said)

    def label(self, command: str, count: int) -> None:
        """Label `count` records on a terminal, by a command of the runbook that opens the labelling screen."""
        self.stands(command)
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.root)
            os.execvpe("bash", ["bash", "-c", filled(command, self.names)], {**self.environment, "TERM": "xterm"})  # noqa: S606
        try:
            for key in [b"1"] * count + [b"q"]:
                drain(terminal)
                os.write(terminal, key)
            drain(terminal)
        finally:
            os.close(terminal)
            os.waitpid(pid, 0)

    def until(self, holds: Callable[[], object], what: str, seconds: float = 120.0) -> float:
        """Wait until something holds; the seconds that it took.

        Raises:
            Failed: it never did.
        """
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > seconds:
                raise Failed(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.5)
        return time.monotonic() - started


def drain(terminal: int, quiet: float = 0.3) -> None:
    """Read what a terminal shows until it is quiet."""
    import select

    while select.select([terminal], [], [], quiet if quiet else 0)[0]:
        try:
            if not os.read(terminal, 65536):
                return
        except OSError:  # its program has ended
            return


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that may be stopped."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
