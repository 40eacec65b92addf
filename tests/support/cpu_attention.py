"""Problems for the CPU kernels of attention: queries, keys in scattered blocks, slots that must not be read."""

from __future__ import annotations

import math

import torch

from quire_kernels.cpu.call import RowStates
from quire_kernels.cpu.decode import RowItems, cpu_decode
from quire_kernels.cpu.tiles import TileItems, cpu_tiles

KV_HEADS = 2
ROW_BLOCKS, TILE_BLOCKS = 40, 60
# (rows, keys, causal): chunks that begin anywhere in their sequence, and groups that see all keys.
CHUNKS = ((1, 1, True), (5, 20, True), (16, 16, True), (70, 130, True))
ITEMS = (*CHUNKS, (3, 90, False), (41, 64, False), (130, 65, False))


def row_problem(
    width: int, group: int, size: int = 16, lengths: tuple[int, ...] = (1, 15, 16, 17, 100), skip: int = 3
) -> tuple[torch.Tensor, torch.Tensor, RowItems]:
    """Queries, an arena whose unread slots are NaN, and one item a length over shuffled blocks."""
    torch.manual_seed(width + group)
    query = torch.randn(KV_HEADS, group, len(lengths), width)
    arena = torch.full((2, KV_HEADS, ROW_BLOCKS, size, width), math.nan)
    order, table, starts = torch.randperm(ROW_BLOCKS).tolist(), [], []
    for length in lengths:
        starts.append(len(table))
        for token in range(skip, skip + length):
            if token // size >= len(table) - starts[-1]:
                table.append(order.pop())
            arena[:, :, table[-1], token % size] = torch.randn(2, KV_HEADS, width)
    each = len(lengths)
    numbers = (range(each), starts, [skip] * each, lengths, [0] * each, table)
    return query, arena, RowItems(*(torch.tensor(list(row)) for row in numbers))


def row_results(
    query: torch.Tensor, arena: torch.Tensor, items: RowItems, threads: int = 1, **how: object
) -> tuple[torch.Tensor, ...]:
    """Results and base-2 log-sum-exp of the rows."""
    states = RowStates.of(query)
    result = torch.empty_like(states.out, dtype=query.dtype)
    cpu_decode(query, *arena, items, states, result, 0.2, threads=threads, **how)  # type: ignore[arg-type]
    return result, states.top + states.total.log2()


def tile_problem(
    width: int = 64, group: int = 2, size: int = 16, window: int = 0, items: tuple[tuple[int, int, bool], ...] = ITEMS
) -> tuple[torch.Tensor, torch.Tensor, TileItems]:
    """Queries, an arena whose unread slots are NaN, and one item an entry over shuffled blocks."""
    torch.manual_seed(width + group + size)
    total = sum(rows for rows, _, _ in items)
    query = torch.randn(KV_HEADS, group, total, width)
    count = TILE_BLOCKS * 16 // size
    arena = torch.full((2, KV_HEADS, count, size, width), math.nan)
    order, table, starts = torch.randperm(count).tolist(), [], []
    positions, skip = [], 3 % size
    for rows, keys, causal in items:
        starts.append(len(table))
        table += [order.pop() for _ in range(-(-(skip + keys) // size))]
        for token in range(skip, skip + keys):
            arena[:, :, table[starts[-1] + token // size], token % size] = torch.randn(2, KV_HEADS, width)
        last = skip + keys if causal else 5000
        positions += range(last - rows, last)
    row_ptr = torch.tensor([0, *(rows for rows, _, _ in items)]).cumsum(0)
    arrays = (starts, [skip] * len(items), [k for _, k, _ in items], [int(c) for *_, c in items], [0] * len(items))
    each = (torch.as_tensor(array) for array in arrays)
    made = TileItems(window, True, torch.arange(total), row_ptr, *each, torch.tensor(table), torch.tensor(positions))
    return query, arena, made


def tile_results(
    query: torch.Tensor, arena: torch.Tensor, items: TileItems, threads: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Results and base-2 log-sum-exp of the rows."""
    states = RowStates.of(query)
    for state in (states.out, states.top, states.total):
        state.fill_(math.nan)
    result = torch.empty_like(states.out, dtype=query.dtype)
    cpu_tiles(query, *arena, items, states, result, query.shape[3] ** -0.5, threads=threads)
    return result, states.top + states.total.log2()
