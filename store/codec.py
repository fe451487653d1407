"""Events to and from what the log stores: a stable type name, a schema version and a JSON payload.

A type's name is its class name in `store.events` and never changes. When a payload's shape changes, raise the
class's SCHEMA and add the step from the old shape to `UPCASTERS`; old payloads are never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from store.errors import Corrupt, StoreError
from store.events import Event, all_event_types

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

# (type, version) -> the payload one version higher
UPCASTERS: dict[tuple[str, int], Upcaster] = {}


class Codec:
    """Encodes and decodes the given event types, lifting old payloads step by step to today's shape."""

    def __init__(self, types: Mapping[str, type[Event]], upcasters: Mapping[tuple[str, int], Upcaster]) -> None:
        self.types = dict(types)
        self.upcasters = dict(upcasters)
        self._name_of = {kind: (name, kind.SCHEMA) for name, kind in self.types.items()}
        self._encoder = msgspec.json.Encoder()
        self._decoders = {(name, kind.SCHEMA): msgspec.json.Decoder(kind).decode for name, kind in self.types.items()}

    def encode(self, event: Event) -> tuple[str, int, str]:
        """(type, schema_version, payload JSON).

        Raises:
            StoreError: the type is not registered, or the value would not come back as it is (NaN, wrong field type).
        """
        try:
            name, schema = self._name_of[type(event)]
        except KeyError:
            raise StoreError(
                f"{type(event).__name__} is no registered event type", hint="Define it in store/events.py."
            ) from None
        try:
            payload = self._encoder.encode(event)
            # JSON has no NaN: msgspec writes null, which a float field could not read again
            if b"null" in payload and self._decoders[name, schema](payload) != event:
                raise StoreError(f"{name} holds a value that JSON cannot carry (NaN or infinity)")
            return name, schema, payload.decode()
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise StoreError(f"{name} cannot be written: {error}", hint="This is a bug: please report it.") from error

    def decode(self, name: str, schema: int, payload: str | bytes, position: int = 0) -> Event:
        """The event of a stored row; `position` is named in errors.

        Raises:
            Corrupt: unknown type, a version without an upcaster, or a payload that does not fit.
        """
        try:
            decode = self._decoders.get((name, schema))
            if decode is not None:
                return decode(payload)
            return self._lift(name, schema, payload, position)
        except (msgspec.MsgspecError, TypeError, ValueError, KeyError) as error:
            raise Corrupt(
                f"event {position} ({name}@{schema}) cannot be read: {error}",
                hint="Where the row was changed, put the last backup in its place: `tuneloop restore BACKUP`.",
            ) from error

    def _lift(self, name: str, schema: int, payload: str | bytes, position: int) -> Event:
        kind = self.types.get(name)
        if kind is None or schema > kind.SCHEMA:
            raise Corrupt(
                f"event {position} has a type that this tuneloop does not know: {name}@{schema}",
                hint="It was written by a newer tuneloop (upgrade), or the row was changed (`tuneloop verify`).",
            )
        fields = msgspec.json.decode(payload, type=dict[str, Any])
        for version in range(schema, kind.SCHEMA):
            upcaster = self.upcasters.get((name, version))
            if upcaster is None:
                raise Corrupt(f"event {position}: no upcaster from {name}@{version}", hint="This is a bug: report it.")
            fields = upcaster(fields)
        return msgspec.convert(fields, kind)


CODEC = Codec(all_event_types(), UPCASTERS)
