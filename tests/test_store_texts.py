"""Texts: salted digests, erasure down to the bytes, near-duplicate look-up."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_helpers import NOW, received

from store import events as e
from store.database import Database
from store.errors import DuplicateContent, StoreError
from store.log import Draft, Log, step_id
from store.texts import Texts, load_secret, text_digest


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "a.sqlite")
    yield database
    database.close()


@pytest.fixture
def texts(database: Database) -> Texts:
    return Texts(database, bytes(32))


def put(texts: Texts, database: Database, record_id: str, text: str, **more: object) -> str:
    with database.writing() as connection:
        return texts.put(connection, record_id, "tickets", text, **more)  # type: ignore[arg-type]


def test_a_text_comes_back_until_it_is_erased(texts: Texts, database: Database) -> None:
    put(texts, database, "a", "Where is my card?", customer="c-1", meta={"lang": "en"})
    put(texts, database, "b", "Größe ‽ 😀\x00\n", customer="c-1")
    assert texts.get("a") == "Where is my card?"
    assert texts.many(["a", "b", "nobody"]) == {"a": "Where is my card?", "b": "Größe ‽ 😀\x00\n"}
    assert texts.matches("a", "Where is my card?") and not texts.matches("a", "where is my card?")
    assert next(texts.stored(["a"])).meta == {"lang": "en"}
    assert texts.of_customer("c-1") == ["a", "b"]
    assert texts.of_customer("") == []
    assert texts.erase(["a", "nobody"]) == 1
    assert texts.get("a") is None and not texts.matches("a", "Where is my card?")
    assert texts.of_customer("c-1") == ["b"]
    assert texts.known(["a", "b", "nobody"]) == {"a", "b"}


def test_digests_are_salted_and_repeatable_for_a_known_record(texts: Texts, database: Database) -> None:
    one, two = texts.seal("hi"), texts.seal("hi")
    assert one.digest != two.digest
    assert text_digest(one.salt, "hi") == one.digest
    assert put(texts, database, "a", "hi", seal=one) == one.digest
    assert texts.seal("hi", "a") == one
    assert texts.seal("ho", "a") != one


def test_a_retried_intake_appends_nothing_and_another_text_is_refused(texts: Texts, database: Database) -> None:
    log = Log(database)

    def take_in(record_id: str, text: str) -> int:
        seal = texts.seal(text, record_id)
        draft = Draft(received(record_id, text_digest=seal.digest), f"record/{record_id}", step_id("record", record_id))
        return log.append(
            [draft], actor="intake", now=NOW,
            within=lambda connection: texts.put(connection, record_id, "tickets", text, seal=seal),
        )[0].position  # fmt: skip

    assert take_in("a", "hello") == take_in("a", "hello") == 1
    with pytest.raises(DuplicateContent):
        take_in("a", "other")
    texts.erase(["a"])
    with pytest.raises(DuplicateContent):  # its salt is gone: whether it is the same text cannot be known any more
        take_in("a", "hello")
    assert texts.get("a") is None
    log.close()


def test_an_erased_record_stays_erased(texts: Texts, database: Database) -> None:
    digest = put(texts, database, "a", "hello", bands=["x"])
    texts.erase(["a"])
    assert put(texts, database, "a", "hello again", bands=["x"]) == digest
    assert texts.get("a") is None
    assert texts.candidates("tickets", ["x"]) == []


def test_another_text_under_a_known_id_is_refused(texts: Texts, database: Database) -> None:
    put(texts, database, "a", "hello")
    put(texts, database, "a", "hello")
    with pytest.raises(DuplicateContent):
        put(texts, database, "a", "hullo")


def test_candidates_share_a_band_within_their_task(texts: Texts, database: Database) -> None:
    put(texts, database, "a", "A", bands=["1", "2", "3"])
    put(texts, database, "b", "B", bands=["2", b"3", "4"])
    put(texts, database, "c", "C", bands=["9"])
    assert texts.candidates("tickets", ["3", "4", "5"]) == [("b", "B"), ("a", "A")]
    assert texts.candidates("tickets", ["3", "4"], limit=1) == [("b", "B")]
    assert texts.candidates("mail", ["3"]) == []
    assert texts.candidates("tickets", []) == []


def test_band_keys_cannot_be_guessed_without_the_secret(texts: Texts, database: Database, tmp_path: Path) -> None:
    put(texts, database, "a", "A", bands=["plain-band-key"])
    database.checkpoint()
    assert b"plain-band-key" not in (tmp_path / "a.sqlite").read_bytes()
    assert Texts(database, b"x" * 32).candidates("tickets", ["plain-band-key"]) == []


def test_keyed_digests_depend_on_the_secret(texts: Texts, database: Database) -> None:
    assert texts.keyed("a file") == texts.keyed("a file") != texts.keyed("another")
    assert Texts(database, b"x" * 32).keyed("a file") != texts.keyed("a file")


def test_the_secret_is_made_once_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret = load_secret(path)
    assert len(secret) == 32 and load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(StoreError, match="damaged"):
        load_secret(path)


def files(folder: Path) -> bytes:
    """All bytes of the database and everything beside it."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_byte_of_an_erased_text_is_left(texts: Texts, database: Database, tmp_path: Path, seed: int) -> None:
    """Rows of many sizes, so that pages split, merge and overflow while texts come and go."""
    random_ = random.Random(seed)  # noqa: S311
    log = Log(database)
    alive: dict[str, str] = {}
    gone: list[str] = []
    for turn in range(6):
        batch = {}
        for number in range(60):
            record_id = f"{turn}-{number}"
            marker = f"<{random_.getrandbits(64):016x}>"
            batch[record_id] = marker * random_.choice([1, 3, 20, 400])
        drafts = [Draft(received(record_id), f"record/{record_id}") for record_id in batch]

        def write(connection: Any, batch: dict[str, str] = batch) -> None:
            for each, text in batch.items():
                meta = {"note": text[:18]}
                texts.put(connection, each, "tickets", text, f"customer-{each}", meta, bands=[text[:9]])

        log.append(drafts, actor="intake", now=NOW, within=write)
        alive.update(batch)
        chosen = random_.sample(sorted(alive), len(alive) // 2)
        log.append(
            [Draft(e.RecordErased(task="tickets", record_id=record_id), f"record/{record_id}") for record_id in chosen],
            actor="kim", now=NOW, within=lambda connection, ids=chosen: texts.erase_within(connection, ids),
        )  # fmt: skip
        gone += [alive.pop(record_id)[:18] for record_id in chosen]
    texts.scrub()
    everything = files(tmp_path)
    assert [marker for marker in gone if marker.encode() in everything] == []
    assert all(text[:18].encode() in everything for text in alive.values())  # the search can find
    assert len(texts.many(sorted(alive))) == len(alive)
    log.close()


def test_a_reader_that_holds_the_wal_is_told(texts: Texts, database: Database) -> None:
    put(texts, database, "a", "hello")
    with database.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM texts").scalar_one()
        put(texts, database, "b", "hello")
        with database.writing() as writer:
            texts.erase_within(writer, ["a"])
        quick = Texts(Database(database.path, busy_timeout_ms=20), bytes(32))
        with pytest.raises(StoreError, match="write-ahead log"):
            quick.scrub(seconds=0.1)
    texts.scrub()
