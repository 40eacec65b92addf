"""AttentionBackend: what a model's layers ask of attention over the arena, whatever computes it.

One signature for prefill and decode, on every device: Triton's kernels, our C and PyTorch on a CPU, and the dense
attention that tests measure them by. A step is packed: the query tokens of all its sequences stand one after another,
and the plan says whose they are and where their keys lie. So a decode is a sequence with one query token, and nothing
else.
"""

from __future__ import annotations

from typing import Protocol

import torch

from .plan import AttentionPlan

Copies = list[tuple[int, int, int]]


class AttentionBackend(Protocol):
    """Attention over one arena.

    T are the query tokens of the step, ``heads`` the model's query heads, ``kv_heads`` those of keys and values, which
    ``heads`` is a multiple of: query head h reads key head ``h // (heads // kv_heads)``. Tensors lie on the arena's
    device and may have any strides with d innermost. Queries, keys and values are of the arena's dtype, or, where that
    is e4m3, of the model's.

    Attributes:
        arena: (layer, 2, kv_head, block, slot, d): keys at 0, values at 1 of the second axis.
        block_size: tokens in a block.
    """

    arena: torch.Tensor
    block_size: int

    def write_kv(self, layer: int, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan) -> None:
        """Store the step's ``key`` and ``value``, each [kv_heads, T, d], in the slots of the plan."""
        ...

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
        """Attention of all query tokens of the step, each to the tokens of its sequence up to itself.

        The step's own keys and values must be written already.

        Args:
            query: [heads, T, d].
            scale: factor on the scores.
            window: a token sees at most this many keys, its own included; None: all.
            softcap: scores become ``softcap * tanh(score / softcap)``.
            sinks: [heads] natural logits that join each head's softmax without a value.

        Returns:
            [T, heads, d], dtype of ``query``.
        """
        ...

    def copy_blocks(self, copies: Copies) -> None:
        """Copy the first ``slots`` slots in all layers, for rows (src, dst, slots), in their order; src -1 zeroes
        them."""
        ...
