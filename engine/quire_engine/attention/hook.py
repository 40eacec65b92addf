"""Our attention function, as transformers' AttentionInterface calls it.

Owns the border to transformers' modelling code: a model runs its own forward pass and calls ``paged_attention``
where it would compute attention. The function stores the layer's keys and values in the arena and attends to the
work items of the step, which it finds in a context variable, because a model need not hand unknown arguments
through to its layers.

Keys and values of a layer may differ in width (MLA does so): the narrower are stored with zeros behind them.

Whatever the model asks for that is not understood here is refused by name, never ignored: an argument that some
future model adds (a bias, a position-dependent scale) must not silently give other tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from quire_engine.checkpoint.architecture import ModelRefused, layer_window

from .backend import AttentionBackend
from .plan import AttentionPlan

ATTENTION_NAME = "quire_paged"
# Arguments that name what the step knows already, or what is done behind the layers; their values change nothing here.
KNOWN = frozenset({"position_ids", "position_embeddings", "cache_position", "logits_to_keep"})


@dataclass(slots=True)
class Step:
    """One forward pass: where it reads and writes, and which layers have done so."""

    config: Any
    backend: AttentionBackend
    plan: AttentionPlan
    layers: dict[int, torch.nn.Module] = field(default_factory=dict)


_STEP: ContextVar[Step] = ContextVar("quire_step")


@contextmanager
def running(step: Step) -> Iterator[Step]:
    """The calls made inside belong to ``step``."""
    token = _STEP.set(step)
    try:
        yield step
    finally:
        _STEP.reset(token)


def in_step() -> bool:
    """Whether the caller runs inside a step."""
    return _STEP.get(None) is not None


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer: [1, heads, T, d] queries, [1, kv_heads, T, d] new keys and values -> [1, T, heads, d].

    ``scaling`` defaults to 1 / sqrt(d); ``s_aux`` are the [heads] sink logits. Raises ModelRefused.
    """
    step = _STEP.get()
    layer = _enter(step, module, query, key, value)
    if attention_mask is not None:  # none is made under our name, so the layer has made one of its own
        raise ModelRefused(f"layer {layer} gives an attention mask of its own, which this attention does not know")
    _refuse_unknown(layer, dropout, others)
    window = int(sliding_window) if sliding_window else None
    if window != layer_window(step.config, layer):
        raise ModelRefused(
            f"layer {layer} asks for a window of {window}, its configuration says {layer_window(step.config, layer)}"
        )
    width = step.backend.arena.shape[-1]
    step.backend.write_kv(layer, to_width(key, width)[0], to_width(value, width)[0], step.plan)
    out = step.backend.attend(
        layer,
        to_width(query, width)[0],
        step.plan,
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=window,
        softcap=None if softcap is None else float(softcap),
        sinks=s_aux,
    )
    return out[..., : value.shape[-1]].unsqueeze(0), None


def to_width(x: torch.Tensor, width: int) -> torch.Tensor:
    """[..., d] with zeros behind each row: they add nothing to a score, and are cut off what attention gives."""
    return x if x.shape[-1] == width else torch.nn.functional.pad(x, (0, width - x.shape[-1]))


def _enter(step: Step, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    """The index of the calling layer, after checking that it is a causal self-attention that fits the arena."""
    layer = getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        raise ModelRefused(f"{type(module).__name__} has no layer_idx: its place in the arena is unknown")
    if not getattr(module, "is_causal", True):
        raise ModelRefused(f"layer {layer} is not causal")
    if getattr(module, "is_kv_shared_layer", False) or layer in step.layers:
        raise ModelRefused(f"layer {layer} shares keys and values with another")
    layers, _, kv_heads, _, _, width = step.backend.arena.shape
    rows = len(step.plan.positions)
    expected, widest = (1, kv_heads, rows), max(key.shape[-1], value.shape[-1])
    fits = tuple(key.shape[:3]) == tuple(value.shape[:3]) == expected and widest == width
    if not (layer < layers and fits and query.shape[2:] == key.shape[2:]):
        raise ModelRefused(
            f"layer {layer} has queries {tuple(query.shape)}, keys {tuple(key.shape)} and values {tuple(value.shape)}:"
            f" the layout is {layers} layers with {kv_heads} heads of {width}, and the step has {rows} tokens"
        )
    if step.backend.arena.dtype not in (key.dtype, torch.float8_e4m3fn):
        raise ModelRefused(f"layer {layer} computes in {key.dtype}, the arena holds {step.backend.arena.dtype}")
    step.layers[layer] = module
    return layer


def _refuse_unknown(layer: int, dropout: float, others: dict[str, Any]) -> None:
    """Refuse every argument that is set and not understood."""
    if dropout:
        raise ModelRefused(f"layer {layer} asks for dropout {dropout}")
    for name, value in others.items():
        if name in KNOWN or value is None or value is False:
            if name == "is_causal" and value is False:
                raise ModelRefused(f"layer {layer} is not causal")
        elif name != "is_causal":
            raise ModelRefused(f"layer {layer} asks for {name!r}, which this attention does not know")


AttentionInterface.register(ATTENTION_NAME, paged_attention)
