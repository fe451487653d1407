"""A person's own editor on a piece of text. The file lies where an erasure finds it, should it be left behind."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from store.errors import InputError

_USUAL = ("nano", "vi")


def edited(folder: Path, words: str) -> str:
    """What the words are once the editor ($VISUAL, $EDITOR, nano or vi) has ended.

    Args:
        folder: where the file lies meanwhile, for the owner's eyes only.
        words: that it opens on.

    Raises:
        InputError: there is no editor, it failed, or what it left is no text.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    command = command or [name for name in _USUAL if shutil.which(name)][:1]
    if not command:
        raise InputError("no editor is known", hint="Set EDITOR.")
    path = folder / f"answer-{os.getpid()}.txt"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(words)
        ended = subprocess.run([*command, str(path)], check=False)
        if ended.returncode:
            raise InputError(f"{command[0]} ended with {ended.returncode}: nothing was changed")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{command[0]} cannot be used: {type(error).__name__}", hint="Set EDITOR.") from None
    finally:
        for left in folder.glob(f"{path.name}*"):  # also what the editor keeps beside it
            left.unlink(missing_ok=True)
