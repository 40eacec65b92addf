"""``quire bench attention``: attention of a step on this CPU, by dtype and by what computes it.

A step of each kind (decodes over a shared prompt, decodes with prompts of their own, a prompt's prefill) runs through
all layers of a model's shape, keys and values written and read, no model around it. The variants:

    float32    the compiled kernels
    bfloat16   the same
    widened    bfloat16, by the library for processors with AVX-512 that cannot multiply bfloat16 pairs; left out where
               this one has no AVX-512
    PyTorch    bfloat16, as without a compiler

They take turns; a ratio is taken within each turn, and medians are reported. With one thread, figures are its CPU time,
which other processes disturb least; with more they are wall time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from bench.report.figures import Report, median, say, table
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_kernels.cpu import host_library
from quire_kernels.cpu.prebuilt import levels_of

from .stopwatch import thread_clock

BLOCK = 16
HEADS, KV_HEADS, WIDTH = 9, 3, 64  # SmolLM2-135M
WIDENED = "x86-64-v4"


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """A step: sequences that share some tokens and have some more, and compute the last few of those."""

    name: str
    sequences: int
    shared: int
    own: int
    computed: int

    def tables(self) -> list[np.ndarray]:
        """Blocks of each sequence, as scattered as in a pool that was used."""
        shared, own = self.shared // BLOCK, -(-(self.own + self.shared % BLOCK) // BLOCK)
        blocks = np.random.default_rng(0).permutation(shared + self.sequences * own).astype(np.int32)
        return [
            np.concatenate([blocks[:shared], blocks[shared + i * own : shared + (i + 1) * own]])
            for i in range(self.sequences)
        ]

    def plan(self, tables: list[np.ndarray]) -> AttentionPlan:
        """A new one, as each step has."""
        start = self.shared + self.own - self.computed
        return build_plan(tables, [start] * self.sequences, [self.computed] * self.sequences, BLOCK)


ATTENTION_STEPS = (
    AttentionStep("decode of 24, 1,020 tokens shared, 30 own", 24, 1020, 30, 1),
    AttentionStep("decode of 24, 1,050 tokens of their own", 24, 0, 1050, 1),
    AttentionStep("prefill of 1,050 tokens", 1, 0, 1050, 1050),
    AttentionStep("prefill of 24 times 42 behind 1,020 shared", 24, 1020, 42, 42),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A dtype and what computes it."""

    name: str
    dtype: torch.dtype
    level: str | None = None
    compiled: bool = True


VARIANTS = (
    Variant("float32", torch.float32),
    Variant("bfloat16", torch.bfloat16),
    Variant("widened", torch.bfloat16, WIDENED),
    Variant("PyTorch", torch.bfloat16, compiled=False),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this bench."""
    parser.add_argument("--layers", type=int, default=30, help="layers of a step")
    parser.add_argument("--turns", type=int, default=9, help="turns of all variants")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and of the kernels")


def run(arguments: argparse.Namespace) -> Report:
    """Measure, and report milliseconds and ratios to float32."""
    torch.set_num_threads(arguments.threads)
    settings = {name: getattr(arguments, name) for name in ("layers", "turns", "threads")}
    report = Report("attention", settings | {"heads": HEADS, "kv_heads": KV_HEADS, "width": WIDTH})
    variants = [variant for variant in VARIANTS if variant.level is None or variant.level in levels_of()]
    rows = []
    for step in ATTENTION_STEPS:
        say(step.name)
        taken = _measure(step, variants, arguments.layers, arguments.turns)
        report.figures[step.name] = taken
        ratios = [median(x / y for x, y in zip(taken[s.name], taken["float32"], strict=True)) for s in variants[1:]]
        rows.append([step.name, *(median(taken[variant.name]) for variant in variants), *ratios])
    header = [
        "step",
        *(f"{variant.name}, ms" for variant in variants),
        *(f"{variant.name} / float32" for variant in variants[1:]),
    ]
    report.tables.append(("Attention of a step, all layers", table(rows, header)))
    report.notes.append(
        "Writing keys and values, attention, and the Python between; medians of turns, ratios within them."
    )
    return report


def _measure(step: AttentionStep, variants: Sequence[Variant], layers: int, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each variant in each turn, after one that does not count."""
    tables = step.tables()
    blocks = 1 + max(int(one.max()) for one in tables)
    backends = {
        variant.name: CpuAttention(
            torch.zeros((layers, 2, KV_HEADS, blocks, BLOCK, WIDTH), dtype=variant.dtype), compiled=variant.compiled
        )
        for variant in variants
    }
    clock = thread_clock()
    taken: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for turn in range(turns + 1):
        for variant in variants:
            with _library(variant.level):
                plan = step.plan(tables)
                total = len(plan.positions)
                query = torch.randn(total, HEADS, WIDTH).to(variant.dtype).transpose(0, 1)
                key, value = torch.randn(2, total, KV_HEADS, WIDTH).to(variant.dtype).transpose(1, 2)
                began = clock()
                for layer in range(layers):
                    backends[variant.name].write_kv(layer, key, value, plan)
                    backends[variant.name].attend(layer, query, plan, scale=WIDTH**-0.5)
                if turn:
                    taken[variant.name].append(1000 * (clock() - began))
    return taken


@contextmanager
def _library(level: str | None) -> Iterator[None]:
    """The kernels are those of this level meanwhile."""
    if level is not None:
        os.environ[host_library.FORCED] = level
        host_library.load.cache_clear()
    try:
        host_library.load()
        yield
    finally:
        if level is not None:
            del os.environ[host_library.FORCED]
            host_library.load.cache_clear()
