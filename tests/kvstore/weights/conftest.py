"""Fixtures: a driver in this process whose device memory is really mapped, kvstore processes with recorded ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kvstore.host.cuda_arena.recorder import Recorder
from tests.kvstore.host.cuda_arena.stack import RecordedKvstore


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """This process's driver; after the test nothing of it is held, and no descriptor is left open."""
    recorder = Recorder(mapped=True)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", recorder)  # type: ignore[arg-type]
    before = len(os.listdir("/proc/self/fd"))
    yield recorder
    assert +recorder.held == {}
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def kvstore(tmp_path: Path) -> Iterator[RecordedKvstore]:
    """A run directory for kvstores; the last one is stopped after the test."""
    kvstore = RecordedKvstore(tmp_path / "run")
    yield kvstore
    if kvstore.process.poll() is None:
        kvstore.stop()
