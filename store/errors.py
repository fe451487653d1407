"""Every error that tuneloop raises on purpose, with what to do about it and the exit code of the command.

TuneloopError
├── UsageError            2   the command's words are off
├── SettingsError         3   tuneloop.toml or the environment
├── InputError            4   a file, record or label that people gave us
│   ├── UnknownRecord
│   ├── UnknownLabel
│   └── DuplicateContent      same id, other content
├── StoreError            5   the database
│   ├── Conflict              somebody else wrote first (expected version)
│   ├── StaleEpoch            a newer daemon holds the lease
│   └── Corrupt               a hash, checksum or payload that does not hold
├── ArtifactError         6   an adapter, dataset or checkpoint folder
├── ModelError            7   the base model, the engine or an endpoint
│   └── EndpointError         a request to a model's URL failed; `kind` says how
├── StepError             8   training or evaluation failed
├── GateRefused           9   not an error of the program: the evidence does not allow it
└── DaemonRunning        10   a second daemon on one workspace
"""

from __future__ import annotations

from typing import Literal

EndpointFailure = Literal["down", "timeout", "auth", "rate-limit", "not-found", "request", "server", "garbage"]


class TuneloopError(Exception):
    """Base of all errors that are told to a person: one line of message, one line of hint."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def line(self) -> str:
        """Message and hint as one line of a log."""
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(TuneloopError):
    exit_code = 2


class SettingsError(TuneloopError):
    exit_code = 3


class InputError(TuneloopError):
    exit_code = 4


class UnknownRecord(InputError):
    pass


class UnknownLabel(InputError):
    pass


class DuplicateContent(InputError):
    pass


class StoreError(TuneloopError):
    exit_code = 5


class Conflict(StoreError):
    pass


class StaleEpoch(StoreError):
    pass


class Corrupt(StoreError):
    pass


class ArtifactError(TuneloopError):
    exit_code = 6


class ModelError(TuneloopError):
    exit_code = 7


class EndpointError(ModelError):
    def __init__(
        self, message: str, *, hint: str = "", kind: EndpointFailure, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.retry_after = retry_after  # seconds the endpoint asked us to wait


class StepError(TuneloopError):
    exit_code = 8


class GateRefused(TuneloopError):
    exit_code = 9


class DaemonRunning(TuneloopError):
    exit_code = 10
