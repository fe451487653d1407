"""The prompt library: one TOML file per prompt version, rendered for a task's labels.

A version is never edited once it has been used: a change is a new file, `name@2.toml`. A workspace may keep
versions of its own in a folder `prompts/`; they are found beside the built-in ones and win over them.

    about = "..."           for people
    system = "..."          may hold {about}, {labels}, {definitions}, {schema}
    user = "{text}"         the only place of the text
    shots = false           whether labelled examples go between system and text
    reasoning = false       the answer follows the last "Label:"
    max_tokens = 8          at least; long labels get more
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from store.errors import SettingsError
from store.prompting import Message, PromptSpec

LIBRARY = Path(__file__).parent / "library"
_NAME = re.compile(r"^(?P<name>[a-z][a-z0-9-]*)@(?P<version>[1-9][0-9]*)$")
_PLACE = re.compile(r"\{(about|labels|definitions|schema)\}")
_SHOT_CHARS = 400  # a shot is an illustration; longer ones are shortened in their middle


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt version as its file says it."""

    system: str
    about: str = ""
    user: str = "{text}"
    shots: bool = False
    reasoning: bool = False
    max_tokens: int = 8
    name: str = ""  # name@version, from the file's name


class Shot(msgspec.Struct, frozen=True):
    """A labelled example shown in a prompt. `id` stands for its text in the prompt's digest."""

    text: str
    label: str
    id: str = ""


def available(own: Path | None = None) -> dict[str, Path]:
    """name@version -> file, in the order of names and versions; `own` is a workspace's prompts folder."""
    found: dict[str, Path] = {}
    for folder in (LIBRARY, own):
        for path in sorted(folder.glob("*.toml")) if folder is not None and folder.is_dir() else ():
            if _NAME.match(path.stem):
                found[path.stem] = path
    return dict(sorted(found.items(), key=lambda item: _split(item[0])))


def resolve(names: Sequence[str], own: Path | None = None) -> list[str]:
    """Full names of the wanted versions; a bare name stands for all of its versions.

    Raises:
        SettingsError: a name is not in the library.
    """
    known = available(own)
    found: list[str] = []
    for name in names:
        matches = [full for full in known if name in (full, full.partition("@")[0])]
        if not matches:
            raise SettingsError(f"there is no prompt {name!r}", hint=f"Known prompts: {', '.join(known)}.")
        found += [full for full in matches if full not in found]
    return found


def read(name: str, own: Path | None = None) -> Template:
    """The template `name` (name@version; a bare name means its newest version).

    Raises:
        SettingsError: there is none, or its file does not hold a template.
    """
    full = resolve([name], own)[-1]
    path = available(own)[full]
    try:
        template = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Template)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path} is no prompt template: {error}", hint="See prompts/templates.py.") from error
    if template.user.count("{text}") != 1:
        raise SettingsError(f"{path}: `user` must hold {{text}} exactly once", hint="It is where the text goes.")
    return msgspec.structs.replace(template, name=full)


def render(
    template: Template,
    labels: Sequence[str],
    *,
    about: str = "",
    definitions: Mapping[str, str] | None = None,
    shots: Sequence[Shot] = (),
    schema: str = "",
) -> PromptSpec:
    """A prompt version as a model sees it, with a digest of it in which ids stand for the examples' texts: the
    digest goes into the log, and one of a short text could be guessed.

    Args:
        template: from `read`.
        labels: the task's labels, in the order in which they are named.
        about: what is classified, in a few words; "the text" if empty.
        definitions: label -> what it means, for {definitions}; a label without one stands alone.
        shots: labelled examples, for templates with shots; ignored by others.
        schema: JSON Schema of the answers, for {schema}.

    Raises:
        SettingsError: the template wants shots and there are none.
    """
    if template.shots and not shots:
        raise SettingsError(
            f"{template.name} needs labelled examples and there are none",
            hint="Ingest a few examples with labels, or leave this prompt out of `prompts`.",
        )
    meanings = definitions or {}
    places = {
        "about": about or "the text",
        "labels": _listed(labels),
        "definitions": "\n".join(f"{label}: {meanings[label]}" if meanings.get(label) else label for label in labels),
        "schema": schema,
    }
    # one pass: a description that itself holds "{labels}" stays as it is
    system = _PLACE.sub(lambda match: places[match.group(1)], template.system.strip())
    turns: list[Message] = []
    for shot in shots if template.shots else ():
        turns.append(Message("user", shot_content(template.user, shot.text)))
        turns.append(Message("assistant", shot.label))
    # a token is seldom shorter than two characters: enough for the longest label
    needed = max((len(label) for label in labels), default=0) // 2 + 4
    spec = PromptSpec(
        name=template.name,
        digest="",
        system=system,
        user=template.user,
        reasoning=template.reasoning,
        max_tokens=max(template.max_tokens, needed + (40 if template.reasoning else 0)),
    )
    shown = [(shot.id, shot.label) for shot in shots] if template.shots else []
    digest = hashlib.sha256(msgspec.json.encode((spec, shown))).hexdigest()
    return msgspec.structs.replace(spec, shots=turns, digest=f"sha256-{digest}")


def shot_content(user: str, text: str) -> str:
    """The user turn of an example, under a template's or a rendered prompt's `user`."""
    return user.replace("{text}", _shortened(text))


def choose_shots(examples: Sequence[Shot], labels: Sequence[str], count: int, seed: int = 1) -> list[Shot]:
    """At most `count` examples, the labels in turn, shorter ones preferred: every answer pays for them.

    The same examples, count and seed give the same shots in the same order, whatever order they come in.
    """
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    piles: list[list[Shot]] = []
    for label in labels:
        own = sorted({shot.text: shot for shot in examples if shot.label == label}.values(), key=lambda s: s.text)
        usual = sorted(own, key=lambda shot: len(shot.text))[: max(1, (len(own) + 1) // 2)]
        chance.shuffle(usual)
        piles.append(usual)
    chosen: list[Shot] = []
    for turn in range(count):
        for pile in piles:
            if turn < len(pile) and len(chosen) < count:
                chosen.append(pile[turn])
    chance.shuffle(chosen)
    return chosen


def _split(name: str) -> tuple[str, int]:
    bare, _, version = name.partition("@")
    return bare, int(version)


def _listed(labels: Sequence[str]) -> str:
    return " or ".join([", ".join(labels[:-1]), labels[-1]]) if len(labels) > 1 else "".join(labels)


def _shortened(text: str) -> str:
    if len(text) <= _SHOT_CHARS:
        return text
    return text[: _SHOT_CHARS // 2] + " … " + text[-_SHOT_CHARS // 2 :]
