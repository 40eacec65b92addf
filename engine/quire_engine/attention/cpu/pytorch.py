"""What PyTorch computes of attention on a CPU: partial results and their merging.

Its fused kernel returns the log-sum-exp and never forms the score matrix; what that lacks (soft-cap) takes an unfused
path of the same signature. Logarithms are base 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

LOG2_E = math.log2(math.e)
UNFUSED_SCORES = 1 << 22  # score elements the unfused path holds at a time


@dataclass(frozen=True, slots=True)
class Partials:
    """Partial results of a step: ``out`` [kv_heads, places + 1, group, d] and base-2 ``lse`` [.., group].

    The last place holds the empty result.
    """

    out: torch.Tensor
    lse: torch.Tensor

    @classmethod
    def empty(cls, kv_heads: int, places: int, group: int, width: int) -> Partials:
        """Room for ``places`` results, in float32 whatever the model's dtype."""
        out = torch.empty((kv_heads, places + 1, group, width))
        lse = torch.empty((kv_heads, places + 1, group))
        out[:, -1], lse[:, -1] = 0.0, -math.inf
        return cls(out, lse)


def partial_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    softcap: float | None,
    hidden: torch.Tensor | None,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with base-2 log-sum-exp: [b, h, n, d], [b, h, L, d] -> [b, h, n, d], [b, h, n].

    ``hidden`` broadcasts to [b, h, n, L]; no row may be hidden from all keys. ``causal`` needs n = L.
    """
    if softcap is not None:
        return _unfused(query, key, value, scale, softcap, hidden, causal)
    mask = None
    if hidden is not None:
        mask = torch.zeros(hidden.shape, dtype=query.dtype).masked_fill_(hidden, -math.inf)
        mask = mask.expand(*query.shape[:3], key.shape[2])
    causal = causal and mask is None  # a window's mask already hides what lies ahead
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, lse * LOG2_E


def _unfused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    softcap: float,
    hidden: torch.Tensor | None,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as :func:`partial_attention` with soft-capped scores, in float32, a bounded number of rows at a time."""
    count, length = query.shape[2], key.shape[2]
    if causal and hidden is None:
        hidden = torch.ones(count, length, dtype=torch.bool).triu(1)
    step = max(1, UNFUSED_SCORES // (query.shape[0] * query.shape[1] * length))
    key, value = key.float(), value.float()
    outs, lses = [], []
    for begin in range(0, count, step):
        scores = query[:, :, begin : begin + step].float() @ key.transpose(-1, -2)
        scores.mul_(scale / softcap).tanh_().mul_(softcap)
        if hidden is not None:
            part = hidden if hidden.shape[-2] == 1 else hidden[..., begin : begin + step, :]
            scores.masked_fill_(part, -math.inf)
        lse = scores.logsumexp(-1, keepdim=True)
        outs.append(scores.sub_(lse).exp_() @ value)
        lses.append(lse.squeeze(-1) * LOG2_E)
    return (outs[0], lses[0]) if len(outs) == 1 else (torch.cat(outs, 2), torch.cat(lses, 2))


def merge(part: Partials, index: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Merge partial results to [T, heads, d]; ``index`` is [T, K], the places of each row's partial results."""
    rows, most = index.shape
    kv_heads, _, group, width = part.out.shape
    flat = index.reshape(-1)
    out = part.out.index_select(1, flat).view(kv_heads, rows, most, group, width)
    if most > 1 or sinks is not None:
        lse = part.lse.index_select(1, flat).view(kv_heads, rows, most, group)
        top = lse.amax(2, keepdim=True)
        top.masked_fill_(top == -math.inf, 0.0)  # an empty row: weights 0, not exp2(-inf + inf)
        weight = torch.exp2(lse - top)
        total = weight.sum(2, keepdim=True)
        if sinks is not None:
            total = total + torch.exp2(sinks.float().view(kv_heads, 1, 1, group) * LOG2_E - top)
        weight /= total.clamp_min_(torch.finfo(torch.float32).tiny)
        out = out * weight.unsqueeze(-1)
    return out.sum(2).permute(1, 0, 2, 3).reshape(rows, kv_heads * group, width)
