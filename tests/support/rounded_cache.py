"""transformers' cache of keys and values, rounded as an e4m3 pool rounds them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from quire_engine.checkpoint.kv_scales import KvScales


class RoundedCache(DynamicCache):  # type: ignore[misc]  # transformers is untyped
    """A cache that keeps what an e4m3 pool would: divided, clamped, rounded, and multiplied again."""

    def __init__(self, scales: KvScales) -> None:
        super().__init__()
        self._scales = scales

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> Any:
        """What a layer calls with its new keys and values."""
        new = []
        for x, scales in ((key_states, self._scales.keys), (value_states, self._scales.values)):
            scale = torch.from_numpy(scales[layer_idx]).to(x).view(1, -1, 1, 1)
            new.append((x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * scale)
        return super().update(*new, layer_idx)
