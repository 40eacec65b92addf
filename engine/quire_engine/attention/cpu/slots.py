"""The slots of an arena in host memory: written as the pool stores them, read as the model computes.

Owns the passage between the two where they differ: an e4m3 arena is divided by its scales and rounded to when written,
and widened piece by piece when read. Everything else is read in place where the slots follow each other, and copied
where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from quire_engine.checkpoint.kv_scales import LARGEST, KvScales


class Slots:
    """The slots of ``arena`` (layer, 2, kv_head, block, slot, d), C-contiguous: consecutive blocks are one matrix.

    Args:
        scales: of an e4m3 arena; all 1 if not given.
    """

    def __init__(self, arena: torch.Tensor, scales: KvScales | None) -> None:
        self._planes = arena.view(*arena.shape[:3], -1, arena.shape[5])
        # [layer, 2, kv_head, 1, 1], None for an arena that holds what the model computes.
        self._scales = _scales_of(arena, scales) if arena.dtype == torch.float8_e4m3fn else None
        # Copies go to memory that stays: fresh pages would cost more than the copying.
        self._scratch = arena.new_empty(0)

    def write(self, layer: int, slots: torch.Tensor, new: Sequence[torch.Tensor]) -> None:
        """Store keys and values, each [kv_heads, T, d], in ``slots`` [T]."""
        planes = self._planes[layer]
        if self._scales is not None:
            planes = planes.view(torch.uint8)  # index_copy_ does not know e4m3
            new = [_rounded(x, s).view(torch.uint8) for x, s in zip(new, self._scales[layer], strict=True)]
        for plane, rows in zip(planes, new, strict=True):
            plane.index_copy_(1, slots, rows)

    def read(
        self, layer: int, slots: torch.Tensor | None, run: tuple[int, int], dtype: torch.dtype
    ) -> Sequence[torch.Tensor]:
        """Keys and values of ``slots``, or of the run of slots if None: [kv_heads, tokens, d] each, in ``dtype``.

        They are good until the next call.
        """
        stored = self._planes[layer, :, :, run[0] : run[1]] if slots is None else self._copied(layer, slots)
        if self._scales is None:
            return stored.unbind()
        return (stored.float() * self._scales[layer]).to(dtype).unbind()

    def _copied(self, layer: int, slots: torch.Tensor) -> torch.Tensor:
        """[2, kv_heads, slots, d] in the scratch memory."""
        planes = self._planes[layer]
        shape = (2, planes.shape[1], len(slots), planes.shape[3])
        size = math.prod(shape)
        if self._scratch.numel() < size:
            self._scratch = planes.new_empty(size)
        copies = self._scratch[:size].view(shape)
        for plane, copy in zip(planes, copies, strict=True):
            torch.index_select(plane, 1, slots, out=copy)
        return copies


def _scales_of(arena: torch.Tensor, scales: KvScales | None) -> torch.Tensor:
    """[layers, 2, kv_heads, 1, 1] float32."""
    chosen = scales or KvScales.ones(arena.shape[0], arena.shape[2])
    both = torch.from_numpy(np.stack([chosen.keys, chosen.values], 1))
    assert both.shape == arena.shape[:3], "scales of another layout"
    return both[..., None, None]


def _rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[kv_heads, T, d] as e4m3 numbers: divided, clamped to the finite ones, rounded to nearest even; NaN stays NaN."""
    return (x.float() / scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
