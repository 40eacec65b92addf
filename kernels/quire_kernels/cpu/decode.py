"""cpu_decode: attention of single query rows over the arena on a CPU; the compiled loop is in ``decode.c``.

Each item is one query row (all its heads) against one run of blocks of one sequence: a decode, or what a decode has
beyond a shared prefix, of which ``cpu_tiles`` has left the row's state. Blocks are read in place, whatever their order.
A row's result is the same, bit by bit, as the one that ``cpu_tiles`` would give it.

Several threads share the items; the interpreter's lock is not held while they work.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch

from .call import (
    WIDTHS,
    RowStates,
    addresses,
    attention_numbers,
    attention_structure,
    base2,
    check_arrays,
    check_attention,
    score_numbers,
)
from .host_library import load

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
    return arena.dtype == torch.float32 and arena.shape[5] in WIDTHS


def cpu_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    items: RowItems,
    states: RowStates,
    scale: float,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    threads: int = 1,
) -> None:
    """Attend every item's row to its keys, the last that it sees: ``states.out`` of these rows are their results then.

    Args:
        query: [kv_heads, group, T, d] float32.
        keys, values: (kv_head, block, slot, d) of one layer, float32, each head contiguous.
        items: what to compute.
        states: of the T rows.
        scale: factor on the scores.
        sinks: [kv_heads * group] natural logits that join each head's softmax without a value.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        threads: how many work at once.

    Raises:
        ValueError: shapes, dtypes or strides the kernel does not know.
        NoHostLibrary: the kernel cannot be compiled here.
    """
    check_attention(query, keys, values, states)
    each = (items.row, items.table_start, items.kv_start, items.kv_len, items.resumes)
    check_arrays(each, (items.table,))
    logits = base2(sinks, query.shape[0] * query.shape[1])
    pointed = (query, keys, values, states.out, states.top, states.total, logits, items.table, *each)
    counted = attention_numbers(query, keys, states, len(items.row))
    arguments = _Arguments(*addresses(*pointed), *counted, *score_numbers(scale, softcap))
    load().quire_cpu_decode(ctypes.byref(arguments), ctypes.c_int64(threads))


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
