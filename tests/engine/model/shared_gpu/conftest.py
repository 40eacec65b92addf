"""Fixtures: this process as an engine over recorded driver calls, and kvstores with theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import Model
from quire_engine.model.shared_gpu import device_model, hold
from quire_engine.model.shared_gpu.device_model import WeightsDesk, load_device_model
from tests.kvstore.host.cuda_arena.recorder import Recorder, recorded_driver
from tests.kvstore.host.cuda_arena.stack import RecordedKvstore, recorded_kvstore
from tests.support.device_engine import host_view

Load = Callable[..., Model]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """This process's driver; after the test nothing of it is held, and no descriptor is left open."""
    monkeypatch.setattr(device_model, "wrap_memory", host_view)
    monkeypatch.setattr(hold, "WATCH_MS", 20)  # how long a test waits for the end of one
    with recorded_driver(monkeypatch, Recorder(mapped=True)) as recorder:
        yield recorder


@pytest.fixture
def kvstore(tmp_path: Path) -> Iterator[RecordedKvstore]:
    """A run directory for kvstores; the last one is stopped after the test."""
    with recorded_kvstore(tmp_path / "run") as kvstore:
        yield kvstore


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head is its embedding, and of more bytes than the least arena has."""
    directory = tmp_path_factory.mktemp("shared-gpu") / "model"
    return make_model(directory, "gemma2", hidden=128, heads=2, kv_heads=1, vocab=4096)


@contextmanager
def _held(models: list[Model]) -> Iterator[None]:
    yield
    for model in models:
        if model.weights_hold is not None:
            model.weights_hold.close()


@pytest.fixture
def load(recorder: Recorder, kvstore: RecordedKvstore, model_dir: Path) -> Iterator[Load]:
    """Loads the model as an engine of ``kvstore`` does; what it holds is given up after the test."""
    models: list[Model] = []

    def loaded(dtype: str = "float32", ended: list[str] | None = None, writer_s: float = 30.0) -> Model:
        reasons = [] if ended is None else ended
        desk = WeightsDesk(kvstore.run_dir, reasons.append, writer_s)
        checkpoint = layout_of(model_dir, dtype, 16).weights
        models.append(load_device_model(model_dir, dtype, "cpu", checkpoint, desk))
        return models[-1]

    with _held(models):
        yield loaded
