"""cpu_tiles: attention of many query rows over the arena on a CPU; the compiled loops are in ``tiles.c``.

Each item is a set of query rows (all their heads) against one run of blocks of one sequence: a prefill chunk with what
comes before it, or the rows of a group over its shared prefix, whose states another call takes up. Blocks are read in
place, whatever their order.

Several threads share tiles of 48 rows; the interpreter's lock is not held while they work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .call import (
    AttentionCall,
    RowStates,
    addresses,
    attention_numbers,
    attention_structure,
    base2,
    check_arrays,
    check_attention,
    check_result,
    score_numbers,
)

TILE_ROWS = 48
# tile_args of the C source
_Arguments = attention_structure(
    ("positions", "rows", "row_ptr", "tile_ptr", "table_start", "kv_start", "kv_len", "causal", "resumes"),
    ("window", "closes"),
)


@dataclass(frozen=True, slots=True)
class TileItems:
    """Items of one step, contiguous int64 tensors of [items] unless said otherwise.

    Attributes:
        window: keys a row of a causal item sees at most, 0 for all.
        closes: whether the rows have seen all their keys then.
        rows: query rows of all items, one item after another; those of a causal item ascend by position.
        row_ptr: [items + 1] where each item's rows begin in ``rows``.
        table_start: where its run begins in ``table``.
        kv_start: position of its first key; ``kv_start % block_size`` slots of the run's first block are skipped.
        kv_len: number of keys, at least 1.
        causal: 1 where a row sees no key behind its own position, and of a window only its latest keys.
        resumes: 1 where the rows have seen the keys before ``kv_start``, which is then a multiple of ``KEYS``; 0
            where there are none that they see.
        table: [entries] block ids of all sequences.
        positions: [T] positions of the query rows.
    """

    window: int
    closes: bool
    rows: torch.Tensor
    row_ptr: torch.Tensor
    table_start: torch.Tensor
    kv_start: torch.Tensor
    kv_len: torch.Tensor
    causal: torch.Tensor
    resumes: torch.Tensor
    table: torch.Tensor
    positions: torch.Tensor


def tiles_call(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    items: TileItems,
    states: RowStates,
    scale: float,
    softcap: float | None = None,
    threads: int = 1,
) -> AttentionCall:
    """Attention of every item's rows to its keys; where that ``closes``, these rows' results are written.

    Args:
        query: [kv_heads, group, T, d]; of this and the next two only the form counts.
        keys, values: (kv_head, block, slot, d) of one layer, dtype of ``query``, each head contiguous.
        items: what to compute.
        states: of the T rows.
        scale: factor on the scores.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        threads: how many work at once.

    Raises:
        ValueError: shapes, dtypes or strides the kernel does not know.
        NoHostLibrary: the kernel cannot be compiled here.
    """
    check_attention(query, keys, values, states)
    each = (items.table_start, items.kv_start, items.kv_len, items.causal, items.resumes)
    check_arrays((*each, items.row_ptr[1:]), (items.rows, items.row_ptr, items.table, items.positions))
    tiles = (items.row_ptr.diff() * query.shape[1] + TILE_ROWS - 1) // TILE_ROWS
    tile_ptr = torch.cat([tiles.new_zeros(1), tiles.cumsum(0)])
    pointed = (
        None, None, None, None, states.out, states.top, states.total, None, items.table, items.positions, items.rows,
        items.row_ptr, tile_ptr, *each,
    )  # fmt: skip
    counted = (*attention_numbers(query, keys, states, len(items.kv_len)), items.window, items.closes)
    arguments = _Arguments(*addresses(*pointed), *counted, *score_numbers(scale, softcap))
    return AttentionCall("tiles", arguments, query.dtype, (items, states, tile_ptr), threads)


def cpu_tiles(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    items: TileItems,
    states: RowStates,
    result: torch.Tensor,
    scale: float,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    threads: int = 1,
) -> None:
    """Make a ``tiles_call`` and run it once.

    Args:
        result: [kv_heads, T, group, d] of the dtype of ``query``, in memory [T, kv_heads, group, d].
        sinks: [kv_heads * group] natural logits that join each head's softmax without a value.
    """
    call = tiles_call(query, keys, values, items, states, scale, softcap, threads)
    check_result(result, query)
    logits = base2(sinks, query.shape[0] * query.shape[1])
    call.run(*(x.data_ptr() for x in (query, keys, values, result)), *addresses(logits))


def cpu_tiles_ref(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, items: TileItems, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain PyTorch: (out [kv_heads, rows, group, d], base-2 lse [kv_heads, rows, group])."""
    size = keys.shape[2]
    outs, lses = [], []
    for i in range(len(items.kv_len)):
        rows = items.rows[items.row_ptr[i] : items.row_ptr[i + 1]]
        token = int(items.kv_start[i]) % size + torch.arange(int(items.kv_len[i]))
        block = items.table[int(items.table_start[i]) + token // size]
        k, v = (x[:, block, token % size] for x in (keys, values))
        scores = torch.einsum("hgmd,hnd->hmgn", query[:, :, rows], k) * scale
        if items.causal[i]:
            ahead = items.kv_start[i] + torch.arange(int(items.kv_len[i])) - items.positions[rows, None]
            hidden = (ahead > 0) | (ahead <= -items.window if items.window else False)
            scores = scores.masked_fill(hidden[None, :, None], -math.inf)
        outs.append(torch.einsum("hmgn,hnd->hmgd", scores.softmax(-1).nan_to_num(0.0), v))
        lses.append(scores.logsumexp(-1) * math.log2(math.e))
    return torch.cat(outs, 1), torch.cat(lses, 1)
