"""The floor of a decode step, or of a whole workload: what its arithmetic takes here, measured in the same run.

Its matrix products run alone, each by the fastest way that is at hand (packed for oneDNN, or torch's own ``linear``),
and its attention's arithmetic is counted at their rate. Reading keys and values from memory is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from quire_engine.model import Model
from quire_engine.packed_linear import PackedLinear

from .stopwatch import thread_clock
from .stream import Answer

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


@dataclass(frozen=True, slots=True)
class Floor:
    """Rates of this machine, and what a token of a model takes.

    Attributes:
        chunk, step: FLOP/s of the layers' products for 2,048 rows and for 64.
        head: FLOP/s of the output head for 64 rows.
        layer_flops, head_flops: of the products of one token, head apart.
        key_flops: attention of one token to one key.
    """

    chunk: float
    step: float
    head: float
    layer_flops: int
    head_flops: int
    key_flops: int

    def seconds(self, answers: Iterable[list[Answer]]) -> float:
        """What the arithmetic of these answers takes: prompt tokens that were not cached, and tokens drawn."""
        total = 0.0
        for answer in (answer for turns in answers for answer in turns):
            computed = answer.prompt - answer.cached
            keys = computed * (answer.prompt + answer.cached) / 2
            keys += answer.output * (answer.prompt + answer.output / max(1, len(answer.texts)) / 2)
            total += (computed * self.layer_flops + keys * self.key_flops) / self.chunk
            total += answer.output * (self.layer_flops / self.step + self.head_flops / self.head)
        return total


def workload_floor(model: Model) -> Floor:
    """Measure the rates with as many threads as torch takes now."""
    head = model.module.get_output_embeddings()
    with torch.inference_mode():
        layers = [module for module in model.module.modules() if isinstance(module, LINEAR) and module is not head]
        flops = sum(2 * module.in_features * module.out_features for module in layers)
        head_flops = 2 * head.in_features * head.out_features
        chunk, step = (rows * flops / sum(_product(module, rows) for module in layers) for rows in (2048, 64))
        head_rate = 64 * head_flops / _product(head, 64)
    config = model.config
    key_flops = 4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return Floor(chunk, step, head_rate, flops, head_flops, key_flops)


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
