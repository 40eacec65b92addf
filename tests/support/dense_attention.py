"""Random packed batches over a paged arena, and attention written down densely: what the backend must agree with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from quire_engine.attention.backend import Copies
from quire_engine.attention.plan import AttentionPlan


@dataclass
class Batch:
    """Sequences with block tables over an arena of ``blocks`` blocks; some share leading blocks."""

    block_size: int
    blocks: int
    tables: list[np.ndarray]
    starts: list[int]
    counts: list[int]


def random_batch(draw: np.random.Generator, *, block_size: int, shared: list[int], private: list[tuple[int, int]]):
    """A batch in scattered blocks.

    Args:
        shared: for each sequence, how many leading blocks of one common chain it begins with.
        private: for each sequence, (tokens in the arena after the shared ones, query tokens of the step).
    """
    sizes = [-(-(past + count) // block_size) for past, count in private]
    blocks = max(shared) + sum(sizes) + 5  # five blocks belong to no sequence here
    ids = draw.permutation(blocks).astype(np.int32)
    if draw.random() < 0.5:
        ids = np.sort(ids)  # contiguous runs take another path
    chain, rest = ids[: max(shared)], ids[max(shared) :]
    own = np.split(rest, np.cumsum(sizes))[: len(sizes)]
    tables = [np.concatenate([chain[:n], table]) for n, table in zip(shared, own, strict=True)]
    starts = [n * block_size + past for n, (past, _) in zip(shared, private, strict=True)]
    return Batch(block_size, blocks, tables, starts, [count for _, count in private])


def poisoned_arena(draw: np.random.Generator, batch: Batch, layers: int, kv_heads: int, width: int) -> torch.Tensor:
    """Random keys and values up to each sequence's start, NaN in every other slot."""
    shape = (layers, 2, kv_heads, batch.blocks, batch.block_size, width)
    arena = torch.full(shape, math.nan)
    flat = arena.view(layers, 2, kv_heads, -1, width)
    filled = torch.from_numpy(np.unique(np.concatenate([slots_of(batch, i, 0, s) for i, s in enumerate(batch.starts)])))
    noise = draw.standard_normal((layers, 2, kv_heads, len(filled), width), dtype=np.float32)
    flat[:, :, :, filled] = torch.from_numpy(noise)
    return arena


def slots_of(batch: Batch, sequence: int, first: int, last: int) -> np.ndarray:
    """Arena slots of tokens ``first`` to ``last`` of a sequence."""
    return table_slots(batch.tables[sequence], batch.block_size, first, last)


def table_slots(table: np.ndarray, block_size: int, first: int, last: int) -> np.ndarray:
    """Arena slots of tokens ``first`` to ``last`` of the sequence with this block table."""
    token = np.arange(first, last)
    return table.astype(np.int64)[token // block_size] * block_size + token % block_size


class DenseAttention:
    """An attention backend written down densely: in float64, one sequence and one query token after another."""

    def __init__(self, arena: torch.Tensor) -> None:
        self.arena = arena
        self.block_size = arena.shape[4]

    def write_kv(self, layer: int, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan) -> None:
        """Store the step's keys and values."""
        slots = torch.from_numpy(plan.slots)
        for plane, new in zip(self.arena[layer], (key, value), strict=True):
            plane.view(plane.shape[0], -1, plane.shape[3])[:, slots] = new

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        plan: AttentionPlan,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[heads, T, d] queries -> [T, heads, d]."""
        heads, kv_heads, width = query.shape[0], self.arena.shape[2], self.arena.shape[5]
        flat = self.arena[layer].double().view(2, kv_heads, -1, width)
        rows = []
        row = 0
        for table, start, count in zip(plan.tables, plan.starts.tolist(), plan.counts.tolist(), strict=True):
            for position in range(start, start + count):
                low = 0 if window is None else max(0, position + 1 - window)
                slots = torch.from_numpy(table_slots(table, self.block_size, low, position + 1))
                key, value = flat[:, :, slots].repeat_interleave(heads // kv_heads, dim=1)
                scores = (key @ query[:, row].double().unsqueeze(-1)).squeeze(-1) * scale
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if sinks is not None:
                    scores = torch.cat([scores, sinks.double().unsqueeze(-1)], -1)
                weights = scores.softmax(-1)[:, : len(slots)]
                rows.append((weights.unsqueeze(1) @ value).squeeze(1))
                row += 1
        return torch.stack(rows).float()

    def copy_blocks(self, copies: Copies) -> None:
        """Copy and zero blocks."""
        for src, dst, slots in copies:
            self.arena[:, :, :, dst, :slots] = self.arena[:, :, :, src, :slots] if src >= 0 else 0
