"""The self-test at load: our paged forward pass against the model's own eager one.

Owns the proof that a model may be served. No list of known models exists; instead every model, at every load, runs
a small packed batch through the path that requests will take: prefill in chunks that end inside blocks, a prefix
shared in the same physical blocks, decodes beside chunks, block tables out of order, unwritten slots full of NaN,
and a sequence longer than the sliding window where that is at most ``MAX_WINDOW``. Each attention module's output
is compared with what the same weights give under transformers' eager attention, one unpadded sequence at a time.

The comparison goes layer by layer on equal inputs: after each layer has been judged, the eager output takes its
place. Rounding cannot add up over layers, so the tolerance is tight, and the layer that is named is the one that is
wrong and not one downstream of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from quire_proto.layout import Layout

from .architecture import ModelRefused, layer_window
from .cpu_attention import CpuAttention
from .interface import NAME, Backend
from .model import Model
from .plan import AttentionPlan, build_plan

MAX_WINDOW = 512
# Largest distance of a row from the reference, relative to the typical length of a row.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(slots=True)
class Probe:
    """One sequence of the self-test: its tokens, block table, and how far it has come."""

    tokens: torch.Tensor
    table: np.ndarray
    done: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """What eager attention gives: for each sequence, logits and the output of each layer's attention module."""

    logits: list[torch.Tensor]
    outputs: list[dict[int, torch.Tensor]]


def self_test(model: Model, layout: Layout, over: Callable[[torch.Tensor], Backend] = CpuAttention) -> None:
    """Raise ModelRefused, naming the first layer that differs, unless paged and eager attention agree.

    The model's backend is restored afterwards; the arena used here is private and small. ``over`` makes the backend
    that is to be judged, over an arena on the model's device; its ValueErrors pass through.
    """
    backend = model.backend
    try:
        probes, blocks = _probes(model, layout.block_size)
        arena = torch.full(layout.shape(blocks), torch.nan, dtype=model.module.dtype, device=model.device)
        model.backend = over(arena)
        modules = _attention_modules(model, layout.block_size)
        reference = _eager(model, modules, probes)
        for counts in _schedule(probes, layout.block_size):
            _compare_step(model, modules, reference, probes, counts, layout.block_size)
    finally:
        model.backend = backend


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


def _attention_modules(model: Model, block_size: int) -> dict[int, torch.nn.Module]:
    """The module that asks for each layer's attention, found by running one token."""
    plan = build_plan([np.zeros(1, dtype=np.int32)], [0], [1], block_size)
    model.forward(torch.zeros(1, dtype=torch.int64), plan, torch.zeros(1, dtype=torch.int64))
    return dict(sorted(model.attention_modules.items()))


@contextmanager
def _hooks(
    modules: dict[int, torch.nn.Module], seen: Callable[[int, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Call ``seen(layer, output)`` for each module's attention output; what it returns replaces the output."""

    def hook_of(layer: int) -> Callable[[torch.nn.Module, Any, Any], Any]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
            rest = output[1:] if isinstance(output, tuple) else None
            replaced = seen(layer, output if rest is None else output[0])
            if replaced is None:
                return None
            return replaced if rest is None else (replaced, *rest)

        return hook

    handles = [module.register_forward_hook(hook_of(layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(outputs: dict[int, torch.Tensor], layer: int, output: torch.Tensor) -> None:
    """Note a layer's output of one sequence; it stays as it is."""
    outputs[layer] = output[0]


def _eager(model: Model, modules: dict[int, torch.nn.Module], probes: list[Probe]) -> Reference:
    """Every sequence alone and unpadded through the model's own eager attention."""
    reference = Reference([], [])
    try:
        model.module.set_attn_implementation("eager")
        for probe in probes:
            outputs: dict[int, torch.Tensor] = {}
            with torch.inference_mode(), _hooks(modules, partial(_keep, outputs)):
                ids = probe.tokens.unsqueeze(0).to(model.device)
                logits = model.module(input_ids=ids, use_cache=False).logits[0].float()
            reference.logits.append(logits)
            reference.outputs.append(outputs)
    except (ValueError, NotImplementedError) as error:
        raise ModelRefused(f"self-test: the model has no eager attention to compare with: {error}") from error
    finally:
        model.module.set_attn_implementation(NAME)
    return reference


def _compare_step(
    model: Model,
    modules: dict[int, torch.nn.Module],
    reference: Reference,
    probes: list[Probe],
    counts: list[int],
    block_size: int,
) -> None:
    """Run one packed step, judging each layer's attention and then the logits."""
    active = [i for i, count in enumerate(counts) if count]
    spans = {i: slice(probes[i].done, probes[i].done + counts[i]) for i in active}
    plan = build_plan(
        [probes[i].table for i in active], [probes[i].done for i in active], [counts[i] for i in active], block_size
    )
    names = {module: name for name, module in model.module.named_modules()}

    def judge(layer: int, output: torch.Tensor) -> torch.Tensor:
        expected = torch.cat([reference.outputs[i][layer][spans[i]] for i in active])
        _judge(f"attention of layer {layer} ({names[modules[layer]]})", output[0], expected, plan)
        return expected.unsqueeze(0)

    with _hooks(modules, judge):
        tokens = torch.cat([probes[i].tokens[spans[i]] for i in active])
        logits = model.forward(tokens, plan, torch.arange(len(tokens)))
    expected = torch.cat([reference.logits[i][spans[i]] for i in active])
    _judge("logits, though the attention of every layer agrees,", logits, expected, plan, model.module.dtype)
    for i in active:
        probes[i].done += counts[i]


def _judge(
    what: str, got: torch.Tensor, expected: torch.Tensor, plan: AttentionPlan, dtype: torch.dtype | None = None
) -> None:
    """Raise ModelRefused unless every row of ``got`` lies within the tolerance of ``expected``."""
    if got.shape != expected.shape:
        raise ModelRefused(f"self-test: {what} has shape {tuple(got.shape)}, eager attention {tuple(expected.shape)}")
    typical = expected.float().norm(dim=-1).mean().clamp_min(1e-20)
    distance = (got.float() - expected.float()).norm(dim=-1) / typical
    worst = int(distance.nan_to_num(torch.inf).argmax())
    limit = TOLERANCE[dtype or expected.dtype]
    if not float(distance[worst]) <= limit:
        raise ModelRefused(
            f"self-test: {what} differs from the model's own eager forward pass by {float(distance[worst]):.2g}"
            f" (allowed: {limit:g}) at position {int(plan.positions[worst])}"
        )
