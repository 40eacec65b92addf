"""Finding scales for keys and values that are to be stored as e4m3.

Owns the rule: run the model over some text under its own eager attention, take the largest key and value of each layer
and KV head, and choose the power of two that leaves ``HEADROOM`` above it. A power of two changes no mantissa, so
multiplying back is exact; and since e4m3 keeps its precision over fifteen powers of two, headroom costs nothing
but at the far small end. Text that is not like the requests therefore does little harm.
"""

from __future__ import annotations

import numpy as np
import torch

from quire_engine.checkpoint.architecture import ModelRefused, kv_shape
from quire_engine.checkpoint.kv_scales import LARGEST, KvScales
from quire_engine.model.selftest.eager import Probe, Seeing, eager

from .model import Model

HEADROOM = 8.0
NO_TABLE = np.empty(0, np.int32)  # eager runs keep nothing in an arena


def calibrate(model: Model, sequences: list[list[int]]) -> KvScales:
    """Scales that fit what ``model`` computes for these token sequences. Raises ModelRefused."""
    layers, kv_heads, _ = kv_shape(model.config)
    largest = torch.zeros(layers, 2, kv_heads)
    for tokens in sequences:
        cache = Seeing()
        eager(model, {}, Probe(torch.tensor(tokens[: model.max_model_len]), NO_TABLE), cache, lambda _layer, _out: None)
        if set(cache.content) != set(range(layers)):
            raise ModelRefused("the model shows its keys and values to no cache: nothing to calibrate")
        seen = [cache.content[layer].float().abs().amax((2, 3)).cpu() for layer in range(layers)]
        largest = largest.maximum(torch.stack(seen))
    if not largest.isfinite().all():
        raise ModelRefused("keys or values are not finite: no scale fits")
    # What was 0 throughout gets a scale as if it were tiny.
    scales = torch.exp2((largest.clamp_min(2.0**-20) * (HEADROOM / LARGEST)).log2().ceil())
    keys, values = scales.unbind(1)
    return KvScales(keys.numpy(), values.numpy())
