"""Stores of records: versions that rise, tombstones that stay, and writers that cannot overwrite each other unseen."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_services.cluster.declarations.records import (
    KEY,
    MEMBER,
    TENANT,
    Change,
    DeclarationStore,
    Record,
    StoreAway,
    StoreError,
    WriteConflict,
    live_values,
    newer,
)
from quire_services.cluster.declarations.stores.address import open_store
from tests.support.valkey_server import StoreServer, store_server

ANN = Change(TENANT, "ann", {}, 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with store_server(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(params=["file", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeclarationStore]:
    address = f"file://{tmp_path}" if request.param == "file" else request.getfixturevalue("server").url
    it = open_store(f"{address}?cluster=c{os.getpid()}-{abs(hash(tmp_path)) % 10**9}")
    yield it
    it.close()


def test_what_is_written_is_read_under_its_version(store: DeclarationStore) -> None:
    """An empty store says so; a later write has a higher version, and the store's revision is that of the last."""
    assert (store.revision(), dict(store.read())) == (0, {})
    first = store.write([ANN, Change(KEY, "ab", {"tenant": "ann"}, 0)])
    assert store.read() == {
        "tenant/ann": Record(TENANT, "ann", first, {}),
        "key/ab": Record(KEY, "ab", first, {"tenant": "ann"}),
    }
    second = store.write([Change(TENANT, "bob", {"x": "ü\n"}, 0)])
    assert second > first > 1_600_000_000_000_000
    assert store.revision() == second
    assert store.read()["tenant/bob"].value == {"x": "ü\n"}


def test_a_deletion_is_a_record(store: DeclarationStore) -> None:
    """It stays, with a version of its own, and what is deleted can be declared again on top of it."""
    first = store.write([ANN])
    second = store.write([Change(TENANT, "ann", None, first)])
    assert store.read()["tenant/ann"] == Record(TENANT, "ann", second, None)
    with pytest.raises(WriteConflict):
        store.write([ANN])
    assert store.read()["tenant/ann"].version == second
    assert store.write([Change(TENANT, "ann", {}, second)]) > second


def test_of_two_writers_the_slower_is_told_and_writes_nothing(store: DeclarationStore) -> None:
    """None of its changes happens, those that nothing spoke against included."""
    first = store.write([ANN])
    store.write([Change(TENANT, "ann", {"by": "one"}, first)])
    with pytest.raises(WriteConflict, match=r"tenant/ann was changed by another writer .* read it and try again"):
        store.write([Change(TENANT, "new", {}, 0), Change(TENANT, "ann", {"by": "two"}, first)])
    assert {key: record.value for key, record in store.read().items()} == {"tenant/ann": {"by": "one"}}


def test_writers_at_once_lose_no_write(store: DeclarationStore) -> None:
    """Each counts a record up until it has done so ten times: no count is lost."""
    store.write([Change(TENANT, "n", {"count": 0}, 0)])

    def count() -> None:
        done = 0
        while done < 10:
            record = store.read()["tenant/n"]
            assert record.value is not None
            try:
                store.write([Change(TENANT, "n", {"count": record.value["count"] + 1}, record.version)])
                done += 1
            except WriteConflict:
                continue

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read()["tenant/n"].value == {"count": 30}


def test_tables_are_apart(store: DeclarationStore) -> None:
    """Neither records nor revision of one are another's."""
    store.write([ANN])
    other = store.table("shares")
    assert (other.revision(), dict(other.read())) == (0, {})
    other.write([Change("share", "ann", {"n": 1}, 0)])
    assert list(store.read()) == ["tenant/ann"]


def test_a_store_that_lost_everything_gives_newer_versions(tmp_path: Path) -> None:
    """Versions are the clock's: what is declared again outdoes what nodes had from before."""
    with store_server(tmp_path) as server:
        store = open_store(server.url)
        before = store.write([ANN])
        server.stop()
        with pytest.raises(StoreError, match="does not answer"):
            store.read()
        with pytest.raises(StoreError, match="does not write"):
            store.write([ANN])
        server.start()
        assert store.revision() == 0
        assert store.write([ANN]) > before
        store.close()


def test_an_address_is_refused_in_words(tmp_path: Path) -> None:
    """An unknown scheme, a file that is not there, a password that others could read; no complaint tells it."""
    kept = tmp_path / "address"
    kept.write_text("valkey://user:secret@host:none/0\n")
    wrong = ("http://x", f"@{tmp_path / 'none'}", f"@{kept}", "valkey://:secret@host:1/0", "file://x/y")
    for address in (*wrong, "valkey://host:1/0?cluster=a/b", "valkey://host:1/0?password=secret"):
        with pytest.raises(StoreError, match="address") as refused:
            open_store(address)
        assert "secret" not in str(refused.value)
    kept.write_text("valkey://:secret@127.0.0.1:1/0?cluster=agents\n")
    with pytest.raises(StoreAway) as away:
        open_store(f"@{kept}").read()
    assert "secret" not in str(away.value)


def test_a_directory_that_is_not_mounted_is_no_empty_store(tmp_path: Path) -> None:
    """It is away, for readers and for writers, and is not made."""
    store = open_store(f"file://{tmp_path / 'share'}")
    with pytest.raises(StoreAway):
        store.revision()
    with pytest.raises(StoreError):
        store.write([ANN])
    assert not (tmp_path / "share").exists()


def test_older_records_never_replace_newer_ones() -> None:
    """Whatever order they come in."""
    old, new = Record(TENANT, "ann", 1, {"x": 1}), Record(TENANT, "ann", 2, None)
    assert newer({old.key: old}, {new.key: new}) == {new.key: new}
    assert newer({new.key: new}, {old.key: old}) == {}
    assert newer({}, {old.key: old}) == {old.key: old}


def test_nothing_of_a_tenant_outlives_it() -> None:
    """Once it is deleted, its keys and memberships are not in force, though nothing deleted them."""
    records = [
        Record(TENANT, "ann", 3, None),
        Record(TENANT, "bob", 3, {}),
        Record(KEY, "aa", 1, {"tenant": "ann"}),
        Record(KEY, "bb", 1, {"tenant": "bob"}),
        Record(MEMBER, "g/ann", 1, {"group": "g", "tenant": "ann"}),
    ]
    table = {record.key: record for record in records}
    assert set(live_values(table, KEY)) == {"bb"}
    assert live_values(table, MEMBER) == {}
