"""The floor of a decode step, or of a whole workload: what its arithmetic takes here, measured in the same run.

Matrix products run alone with as many rows as there are sequences, each by the fastest way that is at hand (our
packed layers, or torch's own ``linear``). Attention's arithmetic is its two products of a KV head for all queries at
once, as over a shared prefix, the same way, on keys that lie in the cache. A second floor takes torch's own
operations alone. Reading keys and values from memory, softmax, norms and activations are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.load.stream import Answer
from quire_engine.model.fused.linear import PackedLinear
from quire_engine.model.model import Model

from .stopwatch import thread_clock

LINEAR = (torch.nn.Linear, PackedLinear)
ATTEMPTS = 7
CHUNK = 2048  # rows of a step that prefills
BATCHES = (1, 8, 16, 32, 64, 200)  # sequences of steps that decode
KEYS = 1800
QUERIES = 512  # of a KV head at a time: the scores of more leave the cache


def decode_floor(model: Model, rows: int, keys: float) -> dict[str, float]:
    """Milliseconds of a decode step of ``rows`` sequences that see ``keys`` keys each, and GFLOP/s of its products."""
    seconds, flops = 0.0, 0.0
    with torch.inference_mode():
        for module in model.module.modules():
            if isinstance(module, LINEAR):
                seconds += _product(module, rows, plain=False)
                flops += 2 * rows * module.in_features * module.out_features
        attention = rows * keys * key_flops(model) / attention_rate(model, rows)
    return {
        "gemm_ms": 1000 * seconds,
        "gflops": flops / seconds / 1e9,
        "attention_ms": 1000 * attention,
        "total_ms": 1000 * (seconds + attention),
    }


@dataclass(frozen=True, slots=True)
class Floor:
    """Rates of this machine in FLOP/s, and what a token of a model takes.

    Attributes:
        chunk: of the layers' products for ``CHUNK`` rows.
        step, head: of the layers' products and of the output head, by rows of a step.
        attention_chunk, attention_step: of attention, prefilling and decoding.
        layer_flops, head_flops: of the products of one token, head apart.
        key_flops: attention of one token to one key.
    """

    chunk: float
    step: dict[int, float]
    head: dict[int, float]
    attention_chunk: float
    attention_step: float
    layer_flops: int
    head_flops: int
    key_flops: int

    def seconds(self, answers: list[list[Answer]]) -> float:
        """What the arithmetic of these agents' answers takes: prompt tokens that were not cached, and tokens drawn, all
        agents decoding together."""
        together = sum(len(turns[0].texts) for turns in answers)
        rows = min(self.step, key=lambda rows: abs(rows - together))
        total = 0.0
        for answer in (answer for turns in answers for answer in turns):
            computed = answer.prompt - answer.cached
            total += computed * self.layer_flops / self.chunk
            total += computed * (answer.prompt + answer.cached) / 2 * self.key_flops / self.attention_chunk
            total += answer.output * (self.layer_flops / self.step[rows] + self.head_flops / self.head[rows])
            keys = answer.output * (answer.prompt + answer.output / max(1, len(answer.texts)) / 2)
            total += keys * self.key_flops / self.attention_step
        return total

    def as_json(self) -> dict[str, object]:
        """The rates in GFLOP/s."""
        named = {"chunk": self.chunk, "attention_chunk": self.attention_chunk, "attention_step": self.attention_step}
        by_rows = {"step": self.step, "head": self.head}
        found: dict[str, object] = {name: rate / 1e9 for name, rate in named.items()}
        return found | {name: {n: rate / 1e9 for n, rate in rates.items()} for name, rates in by_rows.items()}


def workload_floor(model: Model, plain: bool) -> Floor:
    """Measure the rates with as many threads as torch takes now; ``plain``: torch's own operations alone."""
    head = model.module.get_output_embeddings()
    with torch.inference_mode():
        layers = [module for module in model.module.modules() if isinstance(module, LINEAR) and module is not head]
        flops = sum(2 * module.in_features * module.out_features for module in layers)
        head_flops = 2 * head.in_features * head.out_features
        shapes = {(module.in_features, module.out_features): module for module in layers}  # one of each is measured
        counts = Counter((module.in_features, module.out_features) for module in layers)

        def rate(rows: int) -> float:
            return rows * flops / sum(counts[shape] * _product(one, rows, plain) for shape, one in shapes.items())

        return Floor(
            rate(CHUNK),
            {rows: rate(rows) for rows in BATCHES},
            {rows: rows * head_flops / _product(head, rows, plain) for rows in BATCHES},
            attention_rate(model, CHUNK, plain),
            attention_rate(model, 64, plain),
            flops,
            head_flops,
            key_flops(model),
        )


def key_flops(model: Model) -> int:
    """Attention of one token to one key, in all layers."""
    config = model.config
    return int(4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers)


def attention_rate(model: Model, rows: int, plain: bool = False) -> float:
    """FLOP/s of the attention of ``rows`` tokens to ``KEYS`` keys, in one layer."""
    config = model.config
    heads, size = config.num_key_value_heads, config.head_dim
    count = min(QUERIES, rows * (config.num_attention_heads // heads))
    return 4 * heads * count * size * KEYS / (_torch_attention if plain else _products)(model, heads, count, size)


def _products(model: Model, heads: int, count: int, size: int) -> float:
    """Seconds of both products for ``count`` queries of each KV head: as linear layers of keys and of values."""
    packed = any(isinstance(module, PackedLinear) for module in model.module.modules())
    dtype = model.module.dtype
    both = [torch.nn.Linear(*shape, bias=False, dtype=dtype) for shape in ((size, KEYS), (KEYS, size))]
    return heads * sum(_product(PackedLinear.of(one) if packed else one, count, plain=False) for one in both)


def _torch_attention(model: Model, heads: int, count: int, size: int) -> float:
    """Seconds of torch's batched products, or of its fused operation, whichever is faster."""
    dtype = model.module.dtype
    queries, keys, values = (torch.randn(heads, length, size).to(dtype) for length in (count, KEYS, KEYS))
    turned = keys.transpose(1, 2).contiguous()
    fused = torch.nn.functional.scaled_dot_product_attention
    return min(
        _fastest(lambda: torch.bmm(torch.bmm(queries, turned), values)),
        _fastest(lambda: fused(queries[None], keys[None], values[None])),
    )


def _product(module: torch.nn.Linear | PackedLinear, rows: int, plain: bool) -> float:
    """Seconds of one product."""
    weight = module.weight
    inputs = torch.randn(rows, module.in_features).to(weight.dtype)
    found = _fastest(lambda: torch.nn.functional.linear(inputs, weight))
    alone = module.alone if isinstance(module, PackedLinear) else module
    return found if plain else min(found, _fastest(lambda: alone(inputs)))


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls: what the machine can do undisturbed."""
    best, clock = float("inf"), thread_clock()
    for _ in range(ATTEMPTS):
        began = clock()
        call()
        best = min(best, clock() - began)
    return best
