"""The largest step: as large as any may be, and without a trace in the arena."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.models.tiny import make_model
from quire_engine.attention.triton import TritonAttention
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model import largest_step
from quire_engine.model.largest_step import compute_largest_step
from quire_engine.model.model import load_model
from quire_engine.model.sampler import Choice, choose_tokens
from tests.kernels.batch import DEVICE


@pytest.mark.parametrize(
    ("tokens", "sequences", "expected"),
    [(40, 3, (40, 3)), (6, 8, (6, 6)), (70, 1, (64, 1))],
    ids=["prompts", "decodes", "longest"],
)
def test_it_is_as_large_as_any_and_stores_nothing(
    tokens: int, sequences: int, expected: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget's tokens, as far as sequences of the model's longest hold them, and every sequence draws; what blocks
    hold stays there and reaches no sampler."""
    model = load_model(make_model(tmp_path, hidden=32, heads=2, kv_heads=1, vocab=64, max_len=64), device=DEVICE)
    arena = torch.full(layout_of(tmp_path, "float32", 16).shape(4), 5.0, device=DEVICE)
    backend = TritonAttention(arena, model.heads)
    model.use(backend)
    seen: list[tuple[int, int]] = []

    def choose(logits: torch.Tensor, rows: list) -> Choice:
        assert not logits.any()
        seen.append((len(computed[0]), len(rows)))
        return choose_tokens(logits, rows)

    computed: list[torch.Tensor] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, *rest: computed.append(ids) or forward(ids, *rest))
    monkeypatch.setattr(largest_step, "choose_tokens", choose)
    compute_largest_step(model, backend, tokens, sequences)
    assert seen == [expected]
    assert (arena == 5).all()
