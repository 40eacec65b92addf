"""The floor of a decode step: what its arithmetic takes on this machine, measured in the same run.

Its matrix products run alone, each by the fastest way that is at hand (packed for oneDNN, or torch's own ``linear``),
and its attention's arithmetic is counted at their rate. Reading keys and values from memory is not counted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from quire_engine.model import Model
from quire_engine.packed_linear import PackedLinear

from .stopwatch import thread_clock

LINEAR = (torch.nn.Linear, PackedLinear)
ATTEMPTS = 7


def decode_floor(model: Model, rows: int, keys: float) -> dict[str, float]:
    """Milliseconds of a decode step of ``rows`` sequences that see ``keys`` keys each, and GFLOP/s of its products."""
    seconds, flops = 0.0, 0.0
    with torch.inference_mode():
        for module in model.module.modules():
            if isinstance(module, LINEAR):
                seconds += _product(module, rows)
                flops += 2 * rows * module.in_features * module.out_features
    config = model.config
    attention = 4 * rows * config.num_attention_heads * config.head_dim * keys * config.num_hidden_layers
    return {
        "gemm_ms": 1000 * seconds,
        "gflops": flops / seconds / 1e9,
        "attention_ms": 1000 * seconds * attention / flops,
        "total_ms": 1000 * seconds * (1 + attention / flops),
    }


def _product(module: torch.nn.Linear | PackedLinear, rows: int) -> float:
    inputs, weight = torch.randn(rows, module.in_features), module.weight
    return min(_fastest(lambda: module(inputs)), _fastest(lambda: torch.nn.functional.linear(inputs, weight)))


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls: what the machine can do when nobody disturbs it."""
    best, clock = float("inf"), thread_clock()
    for _ in range(ATTEMPTS):
        began = clock()
        call()
        best = min(best, clock() - began)
    return best
