"""How far a load has come is reported tensor by tensor."""

from __future__ import annotations

from pathlib import Path

from bench.models.tiny import make_model
from quire_engine.checkpoint.load_progress import watched
from quire_engine.model.model import load_model


def test_every_tensor_is_counted(tmp_path: Path) -> None:
    """From none to all, in steps of one, and nothing once the watch is over."""
    model = make_model(tmp_path / "model", vocab=64, hidden=32, heads=2, kv_heads=1, max_len=64)
    reported: list[tuple[int, int]] = []
    with watched(lambda done, total: reported.append((done, total))):
        load_model(model)
    count = reported[0][1]
    assert count > 5
    assert reported == [(done, count) for done in range(count + 1)]
    load_model(model)
    assert len(reported) == count + 1
