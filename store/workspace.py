"""A workspace: the folder with tuneloop.toml, and everything the program keeps beside it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sqlalchemy.engine import Engine

from store.artifacts import Artifacts
from store.database import Database
from store.disk import make_folder, sync
from store.errors import StoreError, UsageError
from store.log import Log
from store.projections import Projections
from store.segments import Segments
from store.texts import Texts, load_secret

SETTINGS = "tuneloop.toml"
HOME = ".tuneloop"
RESTORING = ".tuneloop.restoring"  # a backup on its way into a workspace's place
DATABASE = "tuneloop.sqlite"
ERASING = "erasing.json"  # what is being erased, see `loop.erasing`
RENDERING = "rendering.lock"
SECRET = "secret"  # noqa: S105  the file's name


class Paths:
    """Where things lie. All below `root/.tuneloop`, except the inbox, which other programs write to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / HOME
        self.settings = root / SETTINGS
        self.inbox = root / "inbox"
        self.database = self.home / DATABASE
        self.secret = self.home / SECRET
        self.quarantine = self.home / "quarantine"  # lines that could not be taken in
        self.claimed = self.home / "claimed"  # inbox files being read
        self.done = self.home / "done"  # notes of inbox files that were read; older workspaces have the files
        self.run = self.home / "run"  # locks, ports and addresses of what runs now
        self.runs = self.home / "runs"  # run folders of steps
        self.artifacts = self.home / "artifacts"
        self.production = self.home / "production"  # what serves, as a projection of the deployments
        self.logs = self.home / "logs"
        self.wandb = self.home / "wandb"
        self.cache = self.home / "cache"
        self.notify = self.home / "notify"  # what each target of notifications has still to be told

    def folders(self) -> tuple[Path, ...]:
        return (
            self.home, self.inbox, self.quarantine, self.claimed, self.run, self.runs, self.artifacts, self.production,
            self.logs, self.wandb, self.cache, self.notify,
        )  # fmt: skip


class Workspace:
    """An open workspace. Use it as a context manager, or call `close`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(root)
        for folder in self.paths.folders():
            make_folder(folder)
        self.artifacts = Artifacts(self.paths.artifacts)
        self.segments = Segments(self.artifacts)
        self.database = Database(self.paths.database, payloads=self.segments.payload)
        self.log = Log(self.database)
        self.texts = Texts(self.database, load_secret(self.paths.secret))
        self.projections = Projections(self.database, self.log)

    @contextmanager
    def rendering(self) -> Iterator[None]:
        """Held by whoever reads texts and writes them to files, from the reading to the end of the writing."""
        with (self.paths.run / RENDERING).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def wait_for_renderers(self, seconds: float) -> bool:
        """Whether everybody who was `rendering` has ended within `seconds`: what they read is in their files by now."""
        deadline = time.monotonic() + seconds
        with (self.paths.run / RENDERING).open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(0.05)

    @property
    def read(self) -> Engine:
        """The read engine: deferred transactions, and the database refuses writes through it."""
        return self.database.read

    @classmethod
    def create(cls, root: Path) -> Workspace:
        """Make the folders, the database and, where it is missing, an empty tuneloop.toml. Repeating it is harmless."""
        make_folder(root)
        root = root.resolve()
        settings = root / SETTINGS
        if not settings.exists():
            settings.touch(mode=0o600)
        workspace = cls(root)
        workspace.projections.catch_up()
        sync(root)
        sync(root / HOME)
        return workspace

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """Open the workspace of `root` or of the nearest folder above it.

        Only `create` makes a database: one that is lost must not read as an empty workspace.

        Raises:
            UsageError: there is none.
            StoreError: its database is missing or cannot be opened.
        """
        found = find_root(root)
        _require_database(Paths(found))
        return cls(found)

    def close(self) -> None:
        self.log.close()
        self.database.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_database(paths: Paths) -> None:
    try:
        if paths.database.stat().st_size:
            return
        state = "empty"  # SQLite would make a new database of it
    except FileNotFoundError:
        state = "missing"
    except OSError:
        return  # opening it says what is wrong
    folders = (paths.artifacts, paths.production, paths.runs, paths.quarantine, paths.claimed)
    left = [folder.name for folder in folders if folder.is_dir() and any(folder.iterdir())]
    left += [paths.secret.name] if paths.secret.exists() else []
    if not left:
        raise StoreError(
            f"{paths.database} is {state}: making this workspace was interrupted",
            hint=f"Remove {paths.home} and {paths.settings}, then `tuneloop init` again; or `tuneloop restore BACKUP`.",
        )
    raise StoreError(
        f"{paths.database} is {state} although its {' and '.join(left)} {_is(left)} here",
        hint="Put the last backup in its place: `tuneloop restore BACKUP`.",
    )


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 and not names[0].endswith("s") else "are"


def find_root(start: Path) -> Path:
    """The nearest folder, from `start` upwards, that holds tuneloop.toml and a `.tuneloop` folder.

    Raises:
        UsageError: there is none.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / SETTINGS).is_file() and (folder / HOME).is_dir():
            return folder
        if (folder / RESTORING / HOME).is_dir():
            raise UsageError(
                f"a restore into {folder} was interrupted", hint="Repeat the `tuneloop restore` to bring it to its end."
            )
    raise UsageError(f"no workspace in {start} or above it", hint="Make one with `tuneloop init`.")
