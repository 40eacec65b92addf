"""cpu_decode: attention of single query rows over the arena on a CPU; the compiled loop is in ``decode.c``.

Each item is one query row (all its heads) against one run of blocks of one sequence: a decode, or what a decode has
beyond a shared prefix, of which ``cpu_tiles`` has left the row's state. Blocks are read in place, whatever their order.
A row's result is the same, bit by bit, as the one that ``cpu_tiles`` would give it.

Several threads share the items; the interpreter's lock is not held while they work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .call import (
    DTYPES,
    WIDTHS,
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

_Arguments = attention_structure(("row", "table_start", "kv_start", "kv_len", "resumes"))  # decode_args of the C source


@dataclass(frozen=True, slots=True)
class RowItems:
    """Items of one step, int64 tensors of [items] unless said otherwise.

    Attributes:
        row: query row of each item.
        table_start: where its run begins in ``table``.
        kv_start: position of its first key; ``kv_start % block_size`` slots of the run's first block are skipped.
        kv_len: number of keys, at least 1.
        resumes: 1 where the row has seen the keys before ``kv_start``, which is then a multiple of ``KEYS``; 0 where
            there are none that it sees.
        table: [entries] block ids of all sequences.
    """

    row: torch.Tensor
    table_start: torch.Tensor
    kv_start: torch.Tensor
    kv_len: torch.Tensor
    resumes: torch.Tensor
    table: torch.Tensor


def supports(arena: torch.Tensor) -> bool:
    """Whether this arena's dtype and head dimension are ones the kernel knows; ``load`` says if it is there."""
    return arena.dtype in DTYPES and arena.shape[5] in WIDTHS


def decode_call(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    items: RowItems,
    states: RowStates,
    scale: float,
    softcap: float | None = None,
    threads: int = 1,
) -> AttentionCall:
    """Attention of every item's row to its keys, the last that it sees, so that its result is written.

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
    each = (items.row, items.table_start, items.kv_start, items.kv_len, items.resumes)
    check_arrays(each, (items.table,))
    pointed = (None, None, None, None, states.out, states.top, states.total, None, items.table, *each)
    counted = attention_numbers(query, keys, states, len(items.row))
    arguments = _Arguments(*addresses(*pointed), *counted, *score_numbers(scale, softcap))
    return AttentionCall("decode", arguments, query.dtype, (items, states), threads)


def cpu_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    items: RowItems,
    states: RowStates,
    result: torch.Tensor,
    scale: float,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    threads: int = 1,
) -> None:
    """Make a ``decode_call`` and run it once.

    Args:
        result: [kv_heads, T, group, d] of the dtype of ``query``, in memory [T, kv_heads, group, d].
        sinks: [kv_heads * group] natural logits that join each head's softmax without a value.
    """
    call = decode_call(query, keys, values, items, states, scale, softcap, threads)
    check_result(result, query)
    logits = base2(sinks, query.shape[0] * query.shape[1])
    call.run(*(x.data_ptr() for x in (query, keys, values, result)), *addresses(logits))


def cpu_decode_ref(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, items: RowItems, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain PyTorch: (out [kv_heads, items, group, d], base-2 lse [kv_heads, items, group])."""
    size = keys.shape[2]
    outs, lses = [], []
    for row, start, first, count in zip(items.row, items.table_start, items.kv_start, items.kv_len, strict=True):
        token = int(first) % size + torch.arange(int(count))
        block = items.table[int(start) + token // size]
        k, v = (x[:, block, token % size] for x in (keys, values))
        scores = torch.einsum("hgd,hnd->hgn", query[:, :, int(row)], k) * scale
        outs.append(scores.softmax(-1) @ v)
        lses.append(scores.logsumexp(-1) * math.log2(math.e))
    return torch.stack(outs, 1), torch.stack(lses, 1)
