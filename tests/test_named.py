"""Files that the settings name elsewhere: no backup has them, and people are told so before they need one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli_world import lived_in

from loop.cli.main import main

SETTINGS = """
[notify.pager]
kind = "command"
command = ["/opt/page/page", "-q"]
[notify.plain]
kind = "command"
command = ["true"]
"""


def test_backup_and_doctor_list_what_no_backup_takes_along(tmp_path: Path, capsys: Any) -> None:
    root = lived_in(tmp_path / "w")
    (tmp_path / "base").mkdir()
    (root / "general.jsonl").write_text("")
    path = root / "tuneloop.toml"
    text = path.read_text() + SETTINGS
    for before, after in (
        ('# base = ""', f'base = "{tmp_path / "base"}"'),
        ('# gateway_token_file = ""', 'gateway_token_file = "../token"'),
        ('# general_file = ""', 'general_file = "general.jsonl"'),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    path.write_text(text)
    wanted = {
        "model.base": (str(tmp_path / "base"), True),
        "daemon.gateway_token_file": (str(root / "../token"), False),
        "notify.pager.command": ("/opt/page/page", False),
        "tasks.tickets.training.general_file": (str(root / "general.jsonl"), True),
    }
    capsys.readouterr()
    assert main(["backup", str(tmp_path / "copies"), "--json", "-w", str(root)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["key"]: (one["path"], one["there"]) for one in told["not_in_it"]} == wanted
    copied = [path.name for path in Path(told["folder"]).rglob("*")]
    assert "tuneloop.toml" in copied and "general.jsonl" not in copied

    assert main(["backup", str(tmp_path / "copies"), "-w", str(root)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{path} ({key}" in said for key, (path, _) in wanted.items())

    main(["doctor", "--json", "-w", str(root)])
    checks = [one for one in json.loads(capsys.readouterr().out)["checks"] if one["name"] == "not in backups"]
    assert [one["level"] for one in checks] == ["ok" if there else "warn" for _, there in wanted.values()]
    assert all(any(path in one["detail"] for one in checks) for path, _ in wanted.values())
