"""Whether a token's logits depend on what else is in its step: the model's own rows, compared bit by bit, at load.

Our kernels for a CPU give a row the same bits in every step, and torch's operations between them do where rows are
whole numbers of vectors, also of each thread's part. Which operations a model has, how wide its rows are and how many
threads there are is known only here. So two sequences that begin alike run by themselves, each in one step, and then
together: their common beginning shared, in chunks, as decodes. Enough rows are taken that torch cuts its operations
among threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from quire_engine.kv.attach import ARENA_DTYPES
from quire_engine.model.model import Model
from quire_kv import Layout

LENGTHS, COMMON = (140, 101), 64
STEPS = (
    (COMMON, 0),
    (37, 30),
    (1, 1),
    (1, 6),
    (37, 0),
)  # query tokens of each sequence; the second finds what is common


def batch_dependence(
    model: Model, layout: Layout, over: Callable[[torch.Tensor], AttentionBackend] = CpuAttention
) -> str:
    """How much logits depend on what else is in the step; "" if not by a bit.

    The model's backend is restored afterwards; the arena used here is private and small.
    """
    backend, rows = model.backend, _Rows(model, layout)
    try:
        alone = []
        for number, tokens in enumerate(rows.tokens):
            model.use(over(rows.arena()))
            alone.append(rows.step([number], [0], [len(tokens)]))
        model.use(over(rows.arena()))
        differing, computed, largest = 0, 0, 0.0
        done = [0, rows.common]
        for counts in rows.steps():
            which = [i for i, count in enumerate(counts) if count]
            got = rows.step(which, [done[i] for i in which], [counts[i] for i in which])
            expected = torch.cat([alone[i][done[i] : done[i] + counts[i]] for i in which])
            differing += int((got != expected).any(1).sum())
            computed, largest = computed + len(got), max(largest, float((got - expected).abs().max()))
            done = [end + count for end, count in zip(done, counts, strict=True)]
    finally:
        model.backend = backend
    return f"logits of {differing} of {computed} tokens differ, by {largest:.1e} at most" if differing else ""


class _Rows:
    """Two sequences, the second of which reads the beginning from the first one's blocks."""

    def __init__(self, model: Model, layout: Layout) -> None:
        self._model, self._layout, size = model, layout, layout.block_size
        draw = np.random.default_rng(0)
        self.tokens = [
            torch.from_numpy(draw.integers(0, model.vocab_size, min(n, model.max_model_len))) for n in LENGTHS
        ]
        self.common = COMMON if len(self.tokens[1]) > COMMON and COMMON % size == 0 else 0
        self.tokens[1][: self.common] = self.tokens[0][: self.common]
        sizes = [-(-len(tokens) // size) for tokens in self.tokens]
        self._blocks = sum(sizes)
        self._tables = np.split(draw.permutation(self._blocks).astype(np.int32), sizes[:1])

    def arena(self) -> torch.Tensor:
        """A new one, its slots full of NaN."""
        shape, dtype = self._layout.shape(self._blocks), ARENA_DTYPES[self._layout.dtype]
        return torch.full(shape, torch.nan, device=self._model.device).to(dtype)

    def step(self, which: list[int], starts: list[int], counts: list[int]) -> torch.Tensor:
        """Logits of all query tokens of one step."""
        shared = self.common // self._layout.block_size
        tables = [self._tables[i] if len(which) == 1 and not starts[0] else self._shared(i, shared) for i in which]
        plan = build_plan(tables, starts, counts, self._layout.block_size)
        spans = zip(which, starts, counts, strict=True)
        tokens = torch.cat([self.tokens[i][start : start + count] for i, start, count in spans])
        return self._model.forward(tokens, plan, torch.arange(len(tokens)))

    def _shared(self, which: int, shared: int) -> np.ndarray:
        return np.concatenate([self._tables[0][:shared], self._tables[which][shared:]])

    def steps(self) -> list[list[int]]:
        """Query tokens of each sequence, step by step, as far as the sequences go."""
        left = [len(self.tokens[0]), len(self.tokens[1]) - self.common]
        found: list[list[int]] = []
        for counts in STEPS:
            taken = [min(count, rest) for count, rest in zip(counts, left, strict=True)]
            left = [rest - count for rest, count in zip(left, taken, strict=True)]
            found += [taken] if any(taken) else []
        return found
