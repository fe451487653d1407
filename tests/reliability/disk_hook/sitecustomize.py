"""Fills the disk, or lowers the file-size limit, when a process reaches a point of `store.kill_points`.

On the PYTHONPATH of a process and all of its children. TUNELOOP_FILL=point=full|limit:FOLDER; FOLDER holds the
ballast, and a mark, so that it happens once.
"""

import os
from pathlib import Path

LIMIT = 4096  # bytes: less than any database has


def _fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def _arm(point: str, how: str, folder: Path) -> None:
    import resource

    from store import kill_points

    reached = kill_points.reached

    def filling(name: str) -> None:
        reached(name)
        if name != point:
            return
        try:
            os.close(os.open(folder / "mark", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if how == "full":
            _fill(folder)
        else:
            for process in Path("/proc").glob("[0-9]*"):  # all of the workspace's, as of one user
                try:
                    if str(folder).encode() in (process / "environ").read_bytes():
                        resource.prlimit(int(process.name), resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
                except OSError:
                    continue

    kill_points.reached = filling


if "TUNELOOP_FILL" in os.environ:
    _point, _, _rest = os.environ["TUNELOOP_FILL"].partition("=")
    _how, _, _folder = _rest.partition(":")
    _arm(_point, _how, Path(_folder))
