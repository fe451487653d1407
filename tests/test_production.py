"""Production's pointer follows log and settings, and is read only as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import History, make

from loop.bootstrap import open_app
from loop.production import read_pointer
from loop.serving import point_production


@pytest.fixture
def root(tmp_path: Path) -> Path:
    history = History(make(tmp_path / "w"))
    history.adopt()
    history.close()
    return tmp_path / "w"


def test_it_follows_the_endpoint_of_the_settings(root: Path) -> None:
    production = root / ".tuneloop" / "production"
    for url in ("http://127.0.0.1:7001/v1", "http://127.0.0.1:7002/v1"):
        with open_app(root, env={"TUNELOOP_ENDPOINT__URL": url, "TUNELOOP_ENDPOINT__MODEL": "small"}) as app:
            assert point_production(app, "") == ["tickets"]
            assert point_production(app, "") == []  # it says so already
        pointer = read_pointer(production, "tickets")
        assert pointer is not None and (pointer.upstream, pointer.answerer) == (url, "zero-shot@1")


def test_one_that_was_changed_is_not_read_and_written_anew(root: Path) -> None:
    path = root / ".tuneloop" / "production" / "tickets.json"
    with open_app(root, env={}) as app:
        assert point_production(app, "") == ["tickets"]
        written = path.read_bytes()
        path.write_bytes(written.replace(b"zero-shot@1", b"zero-shot@3"))
        assert read_pointer(path.parent, "tickets") is None
        assert point_production(app, "") == ["tickets"] and path.read_bytes() == written
