"""Customer text, where it can be erased: events know only a salted digest of it.

Salt and text of an erased record are deleted, and its row stays as an empty mark, so that a late retry cannot
bring the text back. Near-duplicate look-up works over band keys (locality-sensitive hashes, computed by the
caller); they are stored keyed with the workspace's secret, because a plain hash of a short text can be guessed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from store.database import Database, raw
from store.disk import create_whole
from store.errors import DuplicateContent, StoreError, UnknownRecord
from store.targets import SAID, sealed

_CHUNK = 500  # ids of one IN (...)
_SCRUB_SECONDS = 10.0


class Seal(msgspec.Struct, frozen=True):
    """What hides a text: its salt, and the digest that goes into the event."""

    salt: bytes
    digest: str


class StoredText(msgspec.Struct, frozen=True):
    record_id: str
    task: str
    text: str
    customer: str
    meta: dict[str, Any]

    @property
    def said(self) -> dict[str, str]:
        """Words about it by their seal, see `store.targets`."""
        found: dict[str, str] = self.meta.get(SAID, {})
        return found


def text_digest(salt: bytes, text: str) -> str:
    """Hex sha256 of salt and UTF-8 text."""
    return hashlib.sha256(salt + text.encode("utf-8", "surrogatepass")).hexdigest()


def row_checksum(record_id: str, task: str, text: str, salt: bytes, customer: str, meta: str) -> bytes:
    """16 bytes of sha256 over all columns of a text's row; the salt keeps it from being guessed."""
    row = msgspec.msgpack.encode((record_id, task, text, salt, customer, meta))
    return hashlib.sha256(row).digest()[:16]


class Texts:
    """The texts of one workspace. `secret` (32 bytes) keys the band keys."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._secret = secret

    # ------------------------------------------------------------ write

    def seal(self, text: str, record_id: str = "") -> Seal:
        """A fresh salt and the digest under it; the stored salt where `record_id` already holds this very text,
        so that a retried intake makes the same event."""
        if record_id:
            with self._database.reading() as connection:
                row = (
                    raw(connection)
                    .execute("SELECT salt, digest FROM texts WHERE record_id = ? AND text = ?", (record_id, text))
                    .fetchone()
                )
            if row is not None:
                return Seal(*row)
        salt = os.urandom(16)
        return Seal(salt, text_digest(salt, text))

    def put(
        self,
        connection: Connection,
        record_id: str,
        task: str,
        text: str,
        customer: str = "",
        meta: Mapping[str, Any] | None = None,
        *,
        seal: Seal | None = None,
        bands: Iterable[str | bytes] = (),
    ) -> str:
        """Store a text inside the transaction of `connection` (see `Log.append`'s `within`); returns its digest.

        The same text again changes nothing. An erased record stays erased.

        Args:
            seal: as made by `seal(text)`, where the event that goes with it already holds its digest.
            bands: keys of its near-duplicate bands, for `candidates`.

        Raises:
            DuplicateContent: the record is known with another text.
        """
        cursor = raw(connection).cursor()
        known = cursor.execute("SELECT text, digest FROM texts WHERE record_id = ?", (record_id,)).fetchone()
        if known is not None:
            if known[0] is not None and known[0] != text:
                raise DuplicateContent(
                    f"record {record_id} is known with another text", hint="Give the new text a new id."
                )
            return str(known[1])
        seal = seal or self.seal(text)
        stored = msgspec.json.encode(dict(meta or {})).decode()
        checksum = row_checksum(record_id, task, text, seal.salt, customer, stored)
        cursor.execute(
            "INSERT INTO texts (record_id, task, text, salt, digest, customer, meta, checksum) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (record_id, task, text, seal.salt, seal.digest, customer, stored, checksum),
        )
        cursor.executemany(
            "INSERT OR IGNORE INTO near_duplicates (task, band, record_id) VALUES (?, ?, ?)",
            [(task, self._keyed(task, band), record_id) for band in bands],
        )
        return seal.digest

    def seal_words(self, record_id: str, words: str) -> str:
        """The seal of words about a record (see `store.targets`).

        Raises:
            UnknownRecord: it has no text, or no longer.
        """
        with self._database.reading() as connection:
            row = raw(connection).execute("SELECT salt FROM texts WHERE record_id = ?", (record_id,)).fetchone()
        if row is None or row[0] is None:
            raise UnknownRecord(f"the text of {record_id} was erased")
        return sealed(row[0], words)

    def say(self, connection: Connection, record_id: str, said: Mapping[str, str]) -> None:
        """Keep words beside the text that they are about, inside the transaction of the event that names their seals.

        Args:
            said: seal -> words.

        Raises:
            UnknownRecord: the text was erased; the transaction must not commit.
        """
        cursor = raw(connection).cursor()
        row = cursor.execute(
            "SELECT task, text, salt, customer, meta FROM texts WHERE record_id = ?", (record_id,)
        ).fetchone()
        if row is None or row[1] is None:
            raise UnknownRecord(f"the text of {record_id} was erased")
        task, text, salt, customer, meta = row
        known = msgspec.json.decode(meta, type=dict[str, Any])
        known[SAID] = {**said, **known.get(SAID, {})}
        stored = msgspec.json.encode(known).decode()
        cursor.execute(
            "UPDATE texts SET meta = ?, checksum = ? WHERE record_id = ?",
            (stored, row_checksum(record_id, task, text, salt, customer, stored), record_id),
        )

    def erase(self, record_ids: Sequence[str]) -> int:
        """Erase and scrub in one call; how many held a text. See `erase_within` to do it with `RecordErased`."""
        with self._database.writing() as connection:
            erased = self.erase_within(connection, record_ids)
        self.scrub()
        return erased

    def erase_within(self, connection: Connection, record_ids: Sequence[str]) -> int:
        """Delete text, salt, customer, meta and bands inside a transaction. Call `scrub` once it has committed."""
        cursor = raw(connection).cursor()
        erased = 0
        for chunk in _chunks(record_ids):
            marks = _marks(chunk)
            erased += cursor.execute(
                "UPDATE texts SET text = NULL, salt = NULL, customer = '', meta = '{}', checksum = NULL "  # noqa: S608
                f"WHERE text IS NOT NULL AND record_id IN ({marks})",
                chunk,
            ).rowcount
            cursor.execute(f"DELETE FROM near_duplicates WHERE record_id IN ({marks})", chunk)  # noqa: S608
        return erased

    def scrub(self, seconds: float = _SCRUB_SECONDS) -> None:
        """Write erased pages over their old content in the database file and empty the WAL.

        Raises:
            StoreError: readers held the WAL back for `seconds`; the bytes of the erased texts are still in it.
        """
        deadline = time.monotonic() + seconds
        while not self._database.checkpoint():
            if time.monotonic() > deadline:
                raise StoreError(
                    "erased text is still in the write-ahead log: a reader holds it back",
                    hint="End the command that reads for long, then repeat `tuneloop erase`.",
                )
            time.sleep(0.05)

    # ------------------------------------------------------------ read

    def get(self, record_id: str) -> str | None:
        """The text; None where the record is unknown or erased."""
        return self.many([record_id]).get(record_id)

    def many(self, record_ids: Sequence[str]) -> dict[str, str]:
        """Texts by id; unknown and erased ids are left out."""
        found: dict[str, str] = {}
        for stored in self.stored(record_ids):
            found[stored.record_id] = stored.text
        return found

    def stored(self, record_ids: Sequence[str]) -> Iterator[StoredText]:
        """Texts with customer and meta; unknown and erased ids are left out."""
        for chunk in _chunks(record_ids):
            with self._database.reading() as connection:
                rows = (
                    raw(connection)
                    .execute(
                        "SELECT record_id, task, text, customer, meta FROM texts "  # noqa: S608
                        f"WHERE text IS NOT NULL AND record_id IN ({_marks(chunk)})",
                        chunk,
                    )
                    .fetchall()
                )
            for record_id, task, text, customer, meta in rows:
                yield StoredText(record_id, task, text, customer, msgspec.json.decode(meta))

    def matches(self, record_id: str, text: str) -> bool:
        """Whether the record holds exactly this text; False where it is unknown or erased."""
        return self.get(record_id) == text

    def known(self, record_ids: Sequence[str]) -> set[str]:
        """Which of the ids have ever had a text, erased ones included."""
        found: set[str] = set()
        for chunk in _chunks(record_ids):
            with self._database.reading() as connection:
                rows = (
                    raw(connection)
                    .execute(
                        f"SELECT record_id FROM texts WHERE record_id IN ({_marks(chunk)})",  # noqa: S608
                        chunk,
                    )
                    .fetchall()
                )
            found.update(row[0] for row in rows)
        return found

    def of_customer(self, customer: str) -> list[str]:
        """Record ids that hold a text of this customer."""
        if not customer:
            return []
        with self._database.reading() as connection:
            rows = (
                raw(connection)
                .execute(
                    "SELECT record_id FROM texts WHERE customer = ? AND customer != '' ORDER BY record_id", (customer,)
                )
                .fetchall()
            )
        return [row[0] for row in rows]

    def candidates(self, task: str, bands: Iterable[str | bytes], limit: int = 200) -> list[tuple[str, str]]:
        """(record_id, text) of records that share a band, most shared bands first, at most `limit`."""
        keys = [self._keyed(task, band) for band in bands]
        if not keys:
            return []
        with self._database.reading() as connection:
            rows = (
                raw(connection)
                .execute(
                    "SELECT n.record_id, t.text FROM near_duplicates n JOIN texts t ON t.record_id = n.record_id "  # noqa: S608
                    f"WHERE n.task = ? AND n.band IN ({_marks(keys)}) AND t.text IS NOT NULL "
                    "GROUP BY n.record_id ORDER BY count(*) DESC, n.record_id LIMIT ?",
                    [task, *keys, limit],
                )
                .fetchall()
            )
        return [(row[0], row[1]) for row in rows]

    def keyed(self, value: str) -> str:
        """A digest of `value` (hex, 32 characters) that nobody can guess without the workspace's secret: for ids that
        are made from content, where a plain hash would tell whether a guessed content is right."""
        return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).hexdigest()

    def _keyed(self, task: str, band: str | bytes) -> bytes:
        data = band.encode() if isinstance(band, str) else band
        return hashlib.blake2b(task.encode() + b"\0" + data, key=self._secret, digest_size=12).digest()


def load_secret(path: Path) -> bytes:
    """The workspace's 32 random bytes; made once, for the owner only."""
    if not path.exists():
        create_whole(path, secrets.token_bytes(32))
    secret = path.read_bytes()
    if len(secret) != 32:
        raise StoreError(f"{path} is damaged", hint="Restore it from the last backup.")
    return secret


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield list(ids[start : start + _CHUNK])


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
