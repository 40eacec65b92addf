"""Attention over a paged arena in PyTorch, straight from its definition.

The measure of the kernels: it knows block tables, starts and counts, and neither items nor tiles nor partial
results. ``compute`` chooses the dtype of all arithmetic, so that the same function gives the truth (float64) and
what plain PyTorch makes of the same inputs in their own dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .features import Features


def paged_attention_ref(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: Sequence[Sequence[int]],
    starts: Sequence[int],
    counts: Sequence[int],
    features: Features,
    compute: torch.dtype,
) -> torch.Tensor:
    """Attention of a packed batch whose keys and values are written already.

    Args:
        query: [heads, T, d].
        keys, values: one layer of the arena, each [kv_heads, blocks, block_size, d].
        tables: block tables of the sequences.
        starts, counts: position of each sequence's first query row, and its number of rows.
        compute: dtype of all arithmetic.

    Returns:
        [T, heads, d] in ``compute``.
    """
    kv_heads, _, _, width = keys.shape
    heads = query.shape[0]
    out = torch.zeros(query.shape[1], heads, width, dtype=compute)
    row = 0
    for table, start, count in zip(tables, starts, counts, strict=True):
        k, v = (_gather(x, table, start + count).to(compute) for x in (keys, values))
        if features.k_scale is not None and features.v_scale is not None:
            k, v = k * features.k_scale.to(compute)[:, None, None], v * features.v_scale.to(compute)[:, None, None]
        k, v = (x.repeat_interleave(heads // kv_heads, 0) for x in (k, v))
        q = query[:, row : row + count].to(compute)
        weights = _weights(q @ k.transpose(1, 2), torch.arange(start, start + count), features)
        out[row : row + count] = (weights @ v).transpose(0, 1)
        row += count
    return out


def _gather(plane: torch.Tensor, table: Sequence[int], tokens: int) -> torch.Tensor:
    """[kv_heads, tokens, d] of a sequence."""
    blocks = plane[:, torch.as_tensor(table).long()]
    return blocks.reshape(plane.shape[0], -1, plane.shape[3])[:, :tokens]


def _weights(scores: torch.Tensor, position: torch.Tensor, features: Features) -> torch.Tensor:
    """[heads, rows, keys] raw scores -> softmax weights."""
    scores = scores * features.scale
    if features.softcap is not None:
        scores = features.softcap * torch.tanh(scores / features.softcap)
    distance = torch.arange(scores.shape[2]) - position[:, None]
    if features.slopes is not None:
        scores = scores + features.slopes.to(scores.dtype)[:, None, None] * distance.to(scores.dtype)
    hidden = distance > 0
    if features.window is not None:
        hidden = hidden | (distance <= -features.window)
    scores = scores.masked_fill(hidden, -torch.inf)
    if features.sinks is None:
        return scores.softmax(-1)
    sinks = features.sinks.to(scores.dtype)[:, None, None].expand(-1, scores.shape[1], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
