"""Prometheus' text format (version 0.0.4), written by hand: https://prometheus.io/docs/instrumenting/exposition_formats

Nearly every value is read from the log's tables when it is asked for, so of a client library only the writing of lines
would be used; that is this page, and promtool checks it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(msgspec.Struct, frozen=True):
    """A value under its labels; `suffix` as histograms need it (_bucket, _sum, _count)."""

    value: float
    labels: Mapping[str, str] = {}
    suffix: str = ""


class Family(msgspec.Struct, frozen=True):
    """A metric and its samples; without samples only its description is shown."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    about: str
    samples: list[Sample] = []


def page(families: Iterable[Family]) -> str:
    """The families as text, in their order."""
    lines: list[str] = []
    for family in families:
        about = family.about.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {family.name} {about}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{one.suffix}{_labels(one.labels)} {_number(one.value)}" for one in family.samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    # what UTF-8 cannot carry must not break the page
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return clean.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(int(value) if value == int(value) else value)
