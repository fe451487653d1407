"""Who answers production, as a file: `production/<task>.json`, a projection of the promotion events.

The file only ever moves forward in the log, so a stalled process cannot put an old answerer back. The engine
is told first and asked whether it really serves the adapter; only then the file moves. A digest in the file speaks
of the rest of it: what a disk has changed, down to a bit, is not read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import httpx
import msgspec

from adapters.specs import write_json
from store.errors import ModelError
from store.prompting import PromptSpec


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway needs to answer for one task."""

    task: str
    answerer: str
    kind: Literal["prompt", "adapter", "control"]
    labels: list[str]  # none: answers are free words
    prompt: PromptSpec
    adapter: str = ""  # folder of the adapter
    position: int = 0  # of the event that decided it
    epoch: int = 0
    upstream: str = ""  # base URL where prompts are answered; empty: the local engine
    model: str = ""  # model name there
    check: str = ""  # sha256 of all the rest, where it lies in a file


def read_pointer(folder: Path, task: str) -> Pointer | None:
    """The pointer of a task; None where it is missing or not as it was written (the next sync writes it anew)."""
    try:
        found = msgspec.json.decode((folder / f"{task}.json").read_bytes(), type=Pointer)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None
    return found if found == _sealed(found) else None


def says(pointer: Pointer, other: Pointer) -> bool:
    """Whether two pointers say the same, whoever wrote them."""
    return _sealed(msgspec.structs.replace(pointer, epoch=other.epoch)) == _sealed(other)


def write_pointer(folder: Path, pointer: Pointer) -> None:
    """Put a pointer in the place of the one that is there, whole and durably."""
    write_json(folder / f"{pointer.task}.json", _sealed(pointer))


def _sealed(pointer: Pointer) -> Pointer:
    bare = msgspec.structs.replace(pointer, check="")
    return msgspec.structs.replace(bare, check=hashlib.sha256(msgspec.json.encode(bare)).hexdigest())


def move_pointer(folder: Path, pointer: Pointer) -> bool:
    """Write the pointer unless the file is already as new or newer. Returns whether it moved."""
    current = read_pointer(folder, pointer.task)
    if current is not None and (current == _sealed(pointer) or current.position > pointer.position):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_pointer(folder, pointer)
    return True


class Engine:
    """The engine's side doors, as vLLM names them."""

    def __init__(self, url: str, *, token: str = "", timeout: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # a proxy from the environment must not come between us and this machine
        self._client = httpx.Client(base_url=url.rstrip("/"), timeout=timeout, headers=headers, trust_env=False)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def models(self) -> list[str]:
        """Names that the engine answers to.

        Raises:
            ModelError: the engine does not answer, or not as it should.
        """
        try:
            reply = self._client.get("/v1/models")
            reply.raise_for_status()
            return [str(model["id"]) for model in reply.json()["data"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"the engine at {self._client.base_url} gave no list of models: {error}",
                hint="`tuneloop doctor` looks at it.",
            ) from error

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter under an immutable name; one that is already there is left as it is.

        Raises:
            ModelError: the engine refused it or does not list it afterwards.
        """
        if name in self.models():
            return
        try:
            reply = self._client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
        except httpx.HTTPError as error:
            raise ModelError(f"the engine did not load {name}: {error}") from error
        if reply.status_code >= 400:
            raise ModelError(
                f"the engine refused {name}: {_message(reply)}", hint="The answerer before it goes on serving."
            )
        if name not in self.models():
            raise ModelError(f"the engine took {name} but does not list it")

    def unload(self, name: str) -> None:
        """Unload an adapter; one that is not there is no error."""
        try:
            self._client.post("/v1/unload_lora_adapter", json={"lora_name": name})
        except httpx.HTTPError as error:
            raise ModelError(f"the engine did not unload {name}: {error}") from error

    def choose(self, name: str, prompt: PromptSpec, text: str, labels: list[str]) -> str:
        """The label that the named model scores highest for `text`; without labels, what it writes."""
        body = {
            "model": name,
            "messages": msgspec.to_builtins(prompt.messages(text)),
            "max_tokens": prompt.max_tokens,
            "temperature": 0,
        }
        if labels:
            body["structured_outputs"] = {"choice": labels}
        try:
            reply = self._client.post("/v1/chat/completions", json=body)
            reply.raise_for_status()
            return str(reply.json()["choices"][0]["message"]["content"])
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(f"the engine gave no answer as {name}: {error}") from error


def _message(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {reply.status_code}"
