"""Known vulnerabilities of the pinned packages, for the report: pip-audit over constraints.txt. It never fails the run.

A package that the service does not know was not audited, and is counted as such: silence is no all-clear.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PIN = "pip-audit==2.10.1"
ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv" / "audit"  # an environment of its own: its pins are not ours
SECONDS = 600


def main() -> None:
    python = HOME / "bin" / "python"
    try:
        if not python.exists():
            venv.create(HOME, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PIN]
        subprocess.run(install, check=True, capture_output=True, timeout=SECONDS)
        with tempfile.TemporaryDirectory() as place:
            report = Path(place, "report.json")
            command = [python, "-m", "pip_audit", "--disable-pip", "--no-deps", "-r", ROOT / "constraints.txt"]
            command += ["--format", "json", "--output", report, "--progress-spinner", "off"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            if not report.exists():
                said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                print(f"pip-audit: not audited: {said[:300]}")
                return
            found = json.loads(report.read_text())["dependencies"]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"pip-audit: not audited: {type(error).__name__}")
        return
    audited = [one for one in found if "vulns" in one]
    print(f"pip-audit: {len(audited)} of {len(found)} pinned packages were audited")
    if len(audited) < len(found):
        print(f"  {len(found) - len(audited)} are unknown to the service that answered here: of them nothing is said")
    for one in audited:
        for flaw in one["vulns"]:
            fixed = ", ".join(flaw.get("fix_versions", [])) or "no version"
            print(f"  {one['name']} {one['version']}: {flaw['id']} (fixed in {fixed})")
    if audited and not any(one["vulns"] for one in audited):
        print("  no known vulnerability in those")


if __name__ == "__main__":
    sys.exit(main())
