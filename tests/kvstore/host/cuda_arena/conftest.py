"""Fixtures: a recorder in this process, kvstore processes with theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_proto.memory import cuda_mapping
from tests.kvstore.host.cuda_arena.recorder import Recorder, recorded_driver
from tests.kvstore.host.cuda_arena.stack import RecordedKvstore, recorded_kvstore


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """This process's driver; after the test nothing of it is held, and no descriptor is left open."""
    with recorded_driver(monkeypatch, Recorder()) as recorder:
        yield recorder
        assert cuda_mapping._opened == cuda_mapping._exported == {}


@pytest.fixture
def kvstore(tmp_path: Path) -> Iterator[RecordedKvstore]:
    """A run directory for kvstores; the last one is stopped after the test."""
    with recorded_kvstore(tmp_path / "run") as kvstore:
        yield kvstore
