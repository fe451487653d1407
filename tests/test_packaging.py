"""What a user installs: a wheel with exactly our four packages and their data, that runs outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"adapters", "loop", "prompts", "store"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, ROOT]
    subprocess.run([str(part) for part in command], check=True, cwd=out)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_our_four_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    for needed in (
        "adapters/data/general.jsonl",
        "adapters/data/forgetting.jsonl",
        "prompts/library/zero-shot@1.toml",
        "loop/demo_data/tickets.jsonl",
        "loop/py.typed",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith("tests/") or name.endswith((".pyc", ".sqlite"))]


def test_the_installed_program_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    # the dependencies are this environment's; ours come from the wheel alone
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def tuneloop(*arguments: str) -> str:
        done = subprocess.run(
            [python, "-c", "from loop.cli.main import main; main()", *arguments],
            cwd=elsewhere, env=env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run([python, "-c", "import loop; print(loop.__file__)"], cwd=elsewhere, env=env,
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert str(tmp_path) in where
    tuneloop("init", "shop", "--labels", "urgent,billing,technical,general", "--task", "tickets")
    assert "tickets" in tuneloop("-w", "shop", "status")
