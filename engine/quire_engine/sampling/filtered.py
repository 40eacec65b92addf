"""Filtered: a token drawn from those that min-p, top-k and top-p leave, without putting a whole vocabulary in order.

The order of the filters is the one vLLM documents: min-p, top-k, top-p, after the temperature. All three keep a
beginning of the tokens in order of their logits, and a random number is looked up along that beginning. So a few of
the likeliest are enough: for a row with a top-k, as many as that. For a row without one it is not known how many before
their mass has been compared with what top-p asks for. On a CPU the rare row that needs more is sorted then. On a GPU
the host would have to wait for the step to learn which; there a kernel looks at all rows and draws those.

Weights are float32 and sums of them float64, added up in order: what a row draws depends on its own logits and settings
alone, bit by bit, and not on the rows beside it. Of equal logits the lowest id comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quire_engine.sequences.sample_row import SampleRow
from quire_engine.transfer import to_device

from .likeliest import likeliest

FEW = 1024  # of the likeliest tokens, which nearly always hold what is drawn from


def draw_filtered(logits: torch.Tensor, rows: Sequence[SampleRow], uniforms: torch.Tensor) -> torch.Tensor:
    """One token a row.

    Args:
        logits: [rows, vocabulary] float32.
        rows: with temperatures above 0.
        uniforms: [rows, 1] float64, in [0, 1).
    """
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    bounded = [i for i, row in enumerate(rows) if 0 < row.top_k <= FEW]
    others = [i for i, row in enumerate(rows) if not 0 < row.top_k <= FEW]
    for lines, draw in ((bounded, _draw_bounded), (others, _draw_open)):
        if lines:
            at = to_device(torch.tensor(lines), logits.device)
            tokens[at] = draw(logits[at], [rows[i] for i in lines], uniforms[at])
    return tokens


def _draw_bounded(logits: torch.Tensor, rows: Sequence[SampleRow], uniforms: torch.Tensor) -> torch.Tensor:
    """Of rows whose top-k says how many are enough."""
    ids, values = likeliest(logits, min(max(row.top_k for row in rows), logits.shape[1]))
    return _drawn(values, ids, _settings(logits, rows), uniforms)


def _draw_open(logits: torch.Tensor, rows: Sequence[SampleRow], uniforms: torch.Tensor) -> torch.Tensor:
    """Of rows without such a top-k."""
    settings = _settings(logits, rows)
    if logits.shape[1] <= FEW:
        return _drawn(*_in_order(logits), settings, uniforms)
    ids, values = likeliest(logits, FEW)
    temperature, min_p, top_k, top_p = settings.hsplit(4)
    # The mass that top-p is a share of: of all tokens that min-p leaves, unless top-k cuts that short.
    weights = _weights(logits, values[:, :1], temperature)
    mass = weights.mul_(weights >= min_p).cumsum(dim=1, dtype=torch.float64)[:, -1:].contiguous()
    tokens = _drawn(values, ids, settings, uniforms, mass)
    few = _weights(values, values[:, :1], temperature)
    held = few.mul(few >= min_p).cumsum(dim=1, dtype=torch.float64)[:, -1:]
    ends = few[:, -1:] < min_p  # nothing that min-p leaves is beyond the few
    uncut = top_k >= logits.shape[1]
    short = ~(ends | (uncut & (held >= top_p * mass)))[:, 0]
    if _on_gpu(logits):
        from quire_kernels.gpu.sampling.nucleus import nucleus_draw  # Triton itself is an extra

        nucleus_draw(logits, short.to(torch.int32), settings, uniforms[:, 0].float(), tokens)
    elif short.any():
        tokens[short] = _drawn(*_in_order(logits[short]), settings[short], uniforms[short])
    return tokens


def _on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"


def _settings(logits: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    """[rows, 4] float32: temperature, min-p, top-k and top-p."""
    tiny, size = torch.finfo(torch.float32).tiny, logits.shape[1]
    columns = [[max(row.temperature, tiny), row.min_p, min(row.top_k or size, size), row.top_p] for row in rows]
    return to_device(torch.tensor(columns, dtype=torch.float32), logits.device)


def _in_order(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens of each row, the likeliest first."""
    values, ids = logits.sort(dim=1, descending=True, stable=True)
    return values, ids


def _weights(values: torch.Tensor, largest: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Probabilities, relative to the largest: 1 for that. The difference first: a tiny temperature must not turn into
    inf - inf."""
    return ((values - largest) / temperature).exp_()


def _drawn(
    values: torch.Tensor,
    ids: torch.Tensor,
    settings: torch.Tensor,
    uniforms: torch.Tensor,
    mass: torch.Tensor | None = None,
) -> torch.Tensor:
    """[rows] of the ``ids``.

    Args:
        values: [rows, some] logits of the likeliest tokens, in order.
        mass: [rows, 1] what min-p and top-k leave of all tokens; without it nothing is left beyond the ``ids``.
    """
    temperature, min_p, top_k, top_p = settings.hsplit(4)
    weights = _weights(values, values[:, :1], temperature)
    rank = torch.arange(values.shape[1], device=values.device).expand_as(values)
    weights.mul_((weights >= min_p) & (rank < top_k))
    cumulative = weights.cumsum(dim=1, dtype=torch.float64)
    if mass is None:
        mass = cumulative[:, -1:]
    # The most likely token always stays, also with top_p = 0.
    weights.mul_((cumulative - weights < top_p * mass) | (rank == 0))
    cumulative = weights.cumsum(dim=1, dtype=torch.float64)
    picked = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    last = (weights > 0).sum(dim=1, keepdim=True) - 1
    return ids.gather(1, torch.minimum(picked, last)).squeeze(1)
