"""Features: what a model asks of attention beyond queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Features:
    """What a model asks of attention beyond queries, keys and values.

    Attributes:
        scale: factor on the scores.
        window: a row sees at most this many keys, its own included.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        sinks: [heads] logits that join each head's softmax without a value.
        slopes: [heads] float32 ALiBi slopes: ``slope * (key position - query position)`` is added to the scores.
        k_scale, v_scale: [kv_heads] float32 scales of e4m3 keys and values.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None
    slopes: torch.Tensor | None = None
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None
