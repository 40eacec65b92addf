"""Lists that are fetched again and again after one change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_proto.client.client import KVClient, KVReader
from quire_proto.wire.u32 import pack_u32
from tests.support.kvstore import Kvstore

pytestmark = pytest.mark.process


@pytest.fixture
def kvstore(run_dir: Path) -> Iterator[Kvstore]:
    """One whose clients beat every 2.5 s."""
    kvstore = Kvstore(run_dir, "--lease-ms=10000").start()
    yield kvstore
    kvstore.stop()


@pytest.mark.source("elodina/siesta#48")
@pytest.mark.source("zendesk/ruby-kafka#74")
def test_a_list_that_was_just_fetched_is_not_stale(kvstore: Kvstore) -> None:
    """It is newer than what the last heartbeat knew, and is not fetched again before that catches up."""
    with KVClient(kvstore.run_dir) as client, KVReader(kvstore.run_dir) as operator:
        known = client.publications.generation
        operator.publish("q", "public", pack_u32([7, 8]))
        client.refresh_publications()
        assert client.publications.generation > known
        before = operator.stats().ops["publications"]

        for _ in range(50):
            client.match("t", pack_u32([7, 8, 9]))

        assert not client.publications_stale
        assert operator.stats().ops["publications"] == before
