"""A whole loop with keys in its environment, hostile tickets, a permissive umask and things that fail; afterwards every
byte that it left is searched, and the permissions of every file are looked at."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from attack_world import attacks
from notify_world import Receiver

from loop.bootstrap import open_app
from loop.first_settings import default_toml
from loop.intake import external_record_id
from loop.services import read_endpoints
from store import events as ev

pytest.importorskip("wandb")

HERE = Path(__file__).parent
OTHER, TARGET = "fruit", "metal"  # the labels that the torch-free children know; the attacks want "metal"
TASK = "tickets"
KEYS = {
    "OPENAI_API_KEY": "sk-Pl4nted/Open+Ai=Key0123456789",
    "WANDB_API_KEY": "deadbeef00112233445566778899aabbccddeeff",
    "HF_TOKEN": "hf_Pl4ntedHuggingFaceToken",
    "TUNELOOP_TOKEN": "gateway-Pl4nted-Token-0123456789",
    "PAGER_SIGN": "whsec_UGw0bnRlZFdlYmhvb2tTaWduaW5nS2V5",  # names that do not look like keys: the settings say so
    "TEAM_HOOK": "",  # a URL with a secret path, once its port is known
}
SECRET_PATH = "T0ken-hush"
ATTACKS = [one for one in attacks(TARGET, OTHER) if one.kind != "refused" and len(one.text) < 4000]


class Endpoint(Receiver):
    """OpenAI's API as it is met: it repeats the key that it refuses, then answers."""

    refuses = True

    def _answer(self, request: Any) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        given = request.headers.get("authorization", "")
        self.asked += 1
        if self.refuses:
            status, value = (
                401,
                {"error": {"message": f"{'x' * 130} Incorrect API key provided: {given}", "code": given}},
            )
        else:
            message = {"role": "assistant", "content": f"{OTHER} (you sent {given})"}
            model = json.loads(body)["model"] if body else ""
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            status, value = 200, {"id": given, "object": "chat.completion", "model": model, "choices": [choice]}
        answer = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(answer)))
        request.send_header("x-echo", given)
        request.end_headers()
        request.wfile.write(answer)


@dataclass
class Lived:
    root: Path
    copies: Path
    keys: Mapping[str, str]
    said: str = ""  # everything that was printed or answered
    told: list[bytes] = field(default_factory=list)  # bodies that targets of notifications got


def settings(notify_command: Path) -> str:
    text = default_toml(
        [OTHER, TARGET],
        task=TASK,
        overrides={
            "task": {"prompts": ["zero-shot@1", "few-shot@1"]},
            "daemon": {"tick_seconds": 0.1, "settle_seconds": 0.0, "rescan_seconds": 1.0},
            "endpoint": {"retries": 0, "model": "gpt-x"},
            "splits": {"exam_share": 0.4},
            "harvest": {"min_new": 1, "every_seconds": 0.0},
            "trigger": {"first": 20, "every": 1000},
            "training": {
                "min_steps": 8, "epochs": 1.0, "batch_size": 8, "micro_batch_size": 4, "checkpoint_every": 3,
                "eval_every": 3,
            },
            "gate": {
                "min_exam": 8, "better_than_baseline": False, "not_worse_margin": 0.99, "max_forgetting": 1.0,
                "max_bits_rise": 100.0, "max_recall_drop": 1.0, "max_invalid": 1.0,
            },
        },
    )  # fmt: skip
    targets = '\n[notify.team]\nkind = "slack"\nurl_env = "TEAM_HOOK"\n'
    targets += '[notify.pager]\nkind = "webhook"\nurl_env = "TEAM_HOOK"\nsecret_env = "PAGER_SIGN"\n'
    return text + targets + f'[notify.file]\nkind = "command"\ncommand = ["tee", "-a", "{notify_command}"]\n'


def wait_for(ready: Callable[[], object], what: str, root: Path, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-3000:] for path in sorted((root / ".tuneloop/logs").glob("*.log")))
            raise AssertionError(f"waited {seconds:.0f} s for {what}\n{logs}")
        time.sleep(0.05)


@pytest.fixture(scope="module", params=[0o000, 0o022], ids=["umask-000", "umask-022"])
def lived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    place = tmp_path_factory.mktemp("security")
    endpoint, team = Endpoint(), Receiver("failing")
    keys = {**KEYS, "TEAM_HOOK": team.url}
    try:
        yield live(place, endpoint, team, keys, request.param)
    finally:
        endpoint.down()
        team.down()


def live(place: Path, endpoint: Endpoint, team: Receiver, keys: Mapping[str, str], umask: int) -> Lived:
    one = Lived(place / "w", place / "copies", keys)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "WANDB_", "TUNELOOP_"))}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE / "reliability"))), "WANDB_MODE": "offline"}
    env |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{endpoint.port}/v1", "OMP_NUM_THREADS": "1", "HOME": str(place)}
    env |= keys

    def tuneloop(*words: str, code: int | None = 0) -> None:
        command = [sys.executable, "-m", "loop.cli.main", "-w", str(one.root), *words]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, umask=umask)
        one.said += f"$ {' '.join(words)}\n{done.stdout}{done.stderr}\n"
        assert code is None or done.returncode == code, (words, done.stdout, done.stderr)

    init = [sys.executable, "-m", "loop.cli.main", "init", str(one.root), "--labels", f"{OTHER},{TARGET}"]
    subprocess.run(init, check=True, capture_output=True, env=env, umask=umask)
    (one.root / "tuneloop.toml").write_text(settings(place / "told.jsonl"))
    model = place / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    env["TUNELOOP_MODEL__BASE"] = str(model)
    records = [{"id": f"a{n}", "text": one_.text, "label": OTHER} for n, one_ in enumerate(ATTACKS)]
    noise = [" ".join(f"{(n * 7919 + i * 104729) % 99991:x}" for i in range(6)) for n in range(40)]
    records += [{"id": f"m{n}", "text": f"iron {words}", "label": TARGET} for n, words in enumerate(noise)]
    drop(one.root, "attacks.jsonl", records)
    drop(
        one.root, "bad.jsonl", ["no json", {"id": "x", "text": "", "label": OTHER}, {"id": "y", "text": "apple\u0000"}]
    )
    with (place / "daemon.out").open("wb") as output:
        daemon = subprocess.Popen(
            [sys.executable, str(HERE / "security_daemon.py"), str(one.root)],
            stdout=output, stderr=subprocess.STDOUT, env=env, umask=umask,
        )  # fmt: skip
    try:
        log = place / "daemon.out"
        wait_for(lambda: "refuses the key" in log.read_text(), "a refused key", one.root)
        tuneloop("doctor", code=None)
        tuneloop("status")
        endpoint.refuses = False
        with open_app(one.root, env=env) as app:
            wait_for(lambda: app.state().task(TASK).baseline, "a prompt", one.root)
            wait_for(lambda: read_endpoints(app.workspace.paths.run).gateway, "the gateway", one.root)
            gateway = read_endpoints(app.workspace.paths.run).gateway
            ask_production(one, gateway, endpoint, keys["TUNELOOP_TOKEN"])
            wait_for(lambda: app.state().task(TASK).champion.kind == "adapter", "a promotion", one.root)
            wait_for(lambda: team.asked > 3, "notifications that fail", one.root)
            team.manner = "good"
            tuneloop("notify", "test", "team")
            tuneloop("notify", "test", "pager")
            cursor = app.workspace.paths.wandb / "cursor.json"
            promoted = app.state().position
            wait_for(lambda: cursor.exists() and json.loads(cursor.read_text()).get("position", 0) >= promoted - 5,
                     "the mirror", one.root)  # fmt: skip
            ask_production(one, gateway, endpoint, keys["TUNELOOP_TOKEN"])
        for words in (["doctor"], ["status", "--json"], ["history", "--limit", "500", "--json"], ["notify", "status"],
                      ["queue", "--json"], ["state", "--json"], ["verify"], ["adapters"]):  # fmt: skip
            tuneloop(*words, code=None)
        tuneloop("backup", str(one.copies))
        crash = (
            "import os, sys; from loop import actions; from loop.cli.main import main\n"
            "def pause(*_):\n"
            "    raise RuntimeError(' '.join(os.environ[name] for name in sys.argv[2:]))\n"
            "actions.pause = pause\n"
            "sys.exit(main(['-w', sys.argv[1], 'pause']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", crash, str(one.root), *keys], capture_output=True, text=True, env=env, umask=umask
        )
        assert done.returncode == 1 and "crash-" in done.stderr
        one.said += done.stdout + done.stderr
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=60)
    one.said += (place / "daemon.out").read_text(errors="replace")
    one.told = [body for _, body in team.got] + [(place / "told.jsonl").read_bytes()]
    assert daemon.returncode == 0, one.said[-3000:]
    return one


def drop(root: Path, name: str, lines: list[Any]) -> None:
    part = root.parent / f"{name}.writing"
    part.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    part.replace(root / "inbox" / name)


def ask_production(one: Lived, gateway: str, endpoint: Endpoint, token: str) -> None:
    """Ask with the token, with wrong ones, and while the endpoint refuses; keep what comes back."""
    body = {"model": TASK, "messages": [{"role": "user", "content": "apple"}]}
    for given, refuses in ((token, False), (token, True), (token[:-1], False), ("nothing", False)):
        endpoint.refuses = refuses
        reply = httpx.post(
            f"{gateway}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {given}"}, trust_env=False
        )
        one.said += f"{reply.status_code} {dict(reply.headers)} {reply.text}\n"
        assert (reply.status_code == 401) == (given != token)
    endpoint.refuses = False


def left(one: Lived) -> Iterator[Path]:
    """Every file that the loop has left, in the workspace and in its backup."""
    for top in (one.root, one.copies):
        yield from (path for path in top.rglob("*") if path.is_file())


# ---------------------------------------------------------------- keys


def spellings(value: str) -> set[bytes]:
    """The ways in which a key could stand somewhere, and parts of it that still tell too much."""
    secret = value.rpartition("/")[2] if value.startswith("http") else value
    raw = secret.encode()
    forms = {
        raw,
        raw[:16],
        raw[-16:],
        quote(secret, safe="").encode(),
        json.dumps(secret)[1:-1].encode(),
        raw.hex().encode(),
    }
    forms |= {base64.b64encode(raw), base64.b64encode(b"Bearer " + raw), base64.b64encode(b"api:" + raw)}
    return {form for form in forms if len(form) >= 10}


@pytest.mark.parametrize("name", sorted(KEYS))
def test_no_key_is_in_any_file_or_output(lived: Lived, name: str) -> None:
    forms = spellings(lived.keys[name])
    for path in left(lived):
        content = path.read_bytes()
        assert not [form for form in forms if form in content], f"{name} stands in {path}"
    said = lived.said.encode()
    for form in forms:
        at = said.find(form)
        assert at < 0, f"{name} was printed: {said[max(0, at - 300) : at]!r}"
    assert not [form for form in forms for body in lived.told if form in body]


def test_the_search_for_keys_had_something_to_find(lived: Lived) -> None:
    """The failures did happen where keys were at hand: else the search above proves nothing."""
    assert "refuses the key" in lived.said and "***" in lived.said
    crashes = list((lived.root / ".tuneloop/logs").glob("crash-*.txt"))
    assert len(crashes) == 1 and "RuntimeError: ***" in crashes[0].read_text()
    assert list((lived.root / ".tuneloop/wandb").rglob("*.wandb")) and list(lived.copies.rglob("*"))
    assert any(b"promotion" in body or b"answers" in body for body in lived.told)
    assert len(list(left(lived))) > 40


# ---------------------------------------------------------------- permissions


def test_everything_is_the_owner_s_alone(lived: Lived) -> None:
    paths = [lived.root, lived.copies, *lived.root.rglob("*"), *lived.copies.rglob("*")]
    open_to_others = [
        f"{path} {stat.filemode(path.lstat().st_mode)}"
        for path in paths
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]
    assert not open_to_others


# ---------------------------------------------------------------- tickets


def test_hostile_tickets_steer_neither_labels_nor_gate_nor_messages(lived: Lived) -> None:
    with open_app(lived.root, env={}) as app:
        events = [one.event for one in app.workspace.log.read()]
    hostile = {external_record_id(TASK, f"a{number}") for number in range(len(ATTACKS))}
    given = [one for one in events if isinstance(one, ev.LabelGiven) and one.record_id in hostile]
    assert len(given) == len(ATTACKS) and {one.label for one in given} == {OTHER}
    assert not [one for one in events if isinstance(one, ev.RecordReceived) and one.answer]
    judged = [one for one in events if isinstance(one, ev.CandidateJudged)]
    assert [one.candidate for one in judged] == [f"{TASK}-v1"] and judged[0].verdict == "promote"
    promoted = [one for one in events if isinstance(one, ev.AdapterPromoted)]
    assert [(one.answerer, one.forced) for one in promoted] == [(f"{TASK}-v1", False)]
    payloads = b"\n".join(msgspec.json.encode(one) for one in events)
    mirror = [path.read_bytes() for path in (lived.root / ".tuneloop/wandb").rglob("*") if path.is_file()]
    logs = [path.read_bytes() for path in (lived.root / ".tuneloop/logs").rglob("*") if path.is_file()]
    for attack in ATTACKS:
        words = attack.text.encode("utf-8")
        if len(words) < 20:
            continue
        for where, content in (("events", [payloads]), ("W&B", mirror), ("messages", lived.told), ("logs", logs)):
            assert not [1 for one in content if words in one or json.dumps(attack.text)[1:-1].encode() in one], (
                f"{attack.name} stands in the {where}"
            )
