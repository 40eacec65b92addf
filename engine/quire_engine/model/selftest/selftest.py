"""The self-test at load: our paged forward pass against the model's own eager one.

Owns the proof that a model may be served. No list of known models exists; instead every model, at every load, runs
a small packed batch through the path that requests will take: prefill in chunks that end inside blocks, a prefix
shared in the same physical blocks, decodes beside chunks, block tables out of order, unwritten slots full of NaN,
and a sequence longer than the sliding window where that is at most ``MAX_WINDOW``. Each attention module's output
is compared with what the same weights give under transformers' eager attention, one unpadded sequence at a time.

The comparison goes layer by layer on equal inputs: after each layer has been judged, the eager output takes its
place. Rounding cannot add up over layers, so the tolerance is tight, and the layer that is named is the one that is
wrong and not one downstream of it. Where the pool stores keys and values as e4m3 numbers, equal inputs include
those: see ``stored_content``. Last, a sequence must not depend on the positions of its neighbours:
``far_neighbour``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from quire_engine.checkpoint.architecture import ModelRefused, layer_window
from quire_engine.checkpoint.kv_scales import FILE, KvScales
from quire_engine.kv.attach import ARENA_DTYPES
from quire_engine.model.model import Model
from quire_kv import Layout
from quire_proto.wire.layout import E4M3

from .eager import Modules, Probe, Reference, hooks, judge, logits_tolerance, reference
from .far_neighbour import check_far_neighbour
from .stored_content import StoredContent

MAX_WINDOW = 512
# Takes a layer, its output rows, (probe, number of rows) in their order, what eager attention gave, and positions.
Verdict = Callable[[int, torch.Tensor, list[tuple[int, int]], torch.Tensor, np.ndarray], None]


def self_test(model: Model, layout: Layout, over: Callable[[torch.Tensor], AttentionBackend] = CpuAttention) -> None:
    """Raise ModelRefused, naming the first layer that differs, unless paged and eager attention agree.

    The model's backend is restored afterwards; the arena used here is private and small. ``over`` makes the backend
    that is to be judged, over an arena on the model's device; its ValueErrors pass through.
    """
    backend = model.backend
    try:
        probes, blocks = _probes(model, layout.block_size)
        arena = torch.full(layout.shape(blocks), torch.nan, device=model.device).to(ARENA_DTYPES[layout.dtype])
        model.backend = over(arena)
        modules = _attention_modules(model, layout.block_size)
        expected = reference(model, modules, probes)
        limit = logits_tolerance(model, modules, probes, expected)
        coarse = StoredContent(arena, _scales(model, layout), probes) if layout.dtype == E4M3 else None
        verdict = coarse.keep if coarse else _verdict(model, modules)
        for counts in _schedule(probes, layout.block_size):
            _compare_step(model, modules, expected, probes, counts, layout.block_size, verdict, limit)
        if coarse:
            coarse.judge(model, modules, expected)
        check_far_neighbour(model, layout.block_size, limit)
    finally:
        model.backend = backend


def _scales(model: Model, layout: Layout) -> KvScales:
    """The scales that the model was loaded with, which must be the layout's."""
    scales = model.scales or KvScales.ones(layout.num_layers, layout.num_kv_heads)
    if scales.identity() != layout.scales:
        raise ModelRefused(f"{FILE} was changed while the model was loaded: start again")
    return scales


def _verdict(model: Model, modules: Modules) -> Verdict:
    """Judges each layer at once."""
    names = {module: name for name, module in model.module.named_modules()}

    def verdict(
        layer: int, rows: torch.Tensor, _: list[tuple[int, int]], expected: torch.Tensor, positions: np.ndarray
    ) -> None:
        judge(f"attention of layer {layer} ({names[modules[layer]]})", rows, expected, positions)

    return verdict


def _probes(model: Model, block_size: int) -> tuple[list[Probe], int]:
    """Two sequences that share two blocks and one longer than the sliding window; and the blocks they need."""
    windows = [layer_window(model.config, layer) or 0 for layer in range(model.config.num_hidden_layers)]
    window = max((w for w in windows if w <= MAX_WINDOW), default=0)
    longest = model.max_model_len
    lengths = [min(n, longest) for n in (3 * block_size + 7, 3 * block_size + 2, max(3 * block_size, window) + 12)]
    draw = np.random.default_rng(0)
    tokens = [torch.from_numpy(draw.integers(0, model.vocab_size, n)) for n in lengths]
    shared = min(2 * block_size, lengths[1] - 1) // block_size
    tokens[1][: shared * block_size] = tokens[0][: shared * block_size]
    sizes = [-(-n // block_size) for n in lengths]
    blocks = draw.permutation(sum(sizes)).astype(np.int32)
    tables = np.split(blocks, np.cumsum(sizes)[:-1])
    tables[1][:shared] = tables[0][:shared]
    probes = [Probe(ids, table) for ids, table in zip(tokens, tables, strict=True)]
    probes[1].done = shared * block_size  # as after a hit: its first tokens are in the arena once probe 0 has run
    return probes, len(blocks)


def _schedule(probes: list[Probe], block_size: int) -> Iterator[list[int]]:
    """Query tokens of each probe, step by step, until all are done; 0 for a probe that sits out.

    The first prefills at once and decodes early, beside the chunks of the others; all end with decodes.
    """
    longest = len(probes[2].tokens) // 4
    chunks = [len(probes[0].tokens), 3, longest + (longest % block_size == 0)]  # the last ends inside blocks
    decodes = [4, 2, 2]
    joined = [True, False, True]  # the second comes a step later, when the blocks it shares are written
    while any(probe.done < len(probe.tokens) for probe in probes):
        left = [len(probe.tokens) - probe.done for probe in probes]
        yield [
            min(n, max(1, min(chunk, n - end))) if here else 0
            for n, chunk, end, here in zip(left, chunks, decodes, joined, strict=True)
        ]
        joined = [True] * len(probes)


def _attention_modules(model: Model, block_size: int) -> Modules:
    """The module that asks for each layer's attention, found by running one token."""
    plan = build_plan([np.zeros(1, dtype=np.int32)], [0], [1], block_size)
    model.forward(torch.zeros(1, dtype=torch.int64), plan, torch.zeros(1, dtype=torch.int64))
    return dict(sorted(model.attention_modules.items()))


def _compare_step(
    model: Model,
    modules: Modules,
    reference: Reference,
    probes: list[Probe],
    counts: list[int],
    block_size: int,
    verdict: Verdict,
    limit: float,
) -> None:
    """Run one packed step; each layer's attention goes to ``verdict``, the logits are judged here, by ``limit``."""
    active = [i for i, count in enumerate(counts) if count]
    spans = {i: slice(probes[i].done, probes[i].done + counts[i]) for i in active}
    plan = build_plan(
        [probes[i].table for i in active], [probes[i].done for i in active], [counts[i] for i in active], block_size
    )
    parts = [(i, counts[i]) for i in active]

    def seen(layer: int, output: torch.Tensor) -> torch.Tensor:
        expected = torch.cat([reference.outputs[i][layer][spans[i]] for i in active])
        verdict(layer, output[0], parts, expected, plan.positions)
        return expected.unsqueeze(0)

    with hooks(modules, seen):
        tokens = torch.cat([probes[i].tokens[spans[i]] for i in active])
        logits = model.forward(tokens, plan, torch.arange(len(tokens)))
    expected = torch.cat([reference.logits[i][spans[i]] for i in active])
    what = "logits, though the attention of every layer agrees,"
    judge(what, logits, expected, plan.positions, limit)
    for i in active:
        probes[i].done += counts[i]
