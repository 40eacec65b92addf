"""Fixtures: a driver in this process whose device memory is really mapped, kvstore processes with recorded ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kvstore.host.cuda_arena.recorder import Recorder, recorded_driver
from tests.kvstore.host.cuda_arena.stack import RecordedKvstore, recorded_kvstore


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """This process's driver; after the test nothing of it is held, and no descriptor is left open."""
    with recorded_driver(monkeypatch, Recorder(mapped=True)) as recorder:
        yield recorder


@pytest.fixture
def kvstore(tmp_path: Path) -> Iterator[RecordedKvstore]:
    """A run directory for kvstores; the last one is stopped after the test."""
    with recorded_kvstore(tmp_path / "run") as kvstore:
        yield kvstore
