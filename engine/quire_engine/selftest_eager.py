"""The reference of the self-test: transformers' eager attention, one unpadded sequence at a time.

Owns the eager runs, the hooks that see and replace what attention modules give, and the verdict on a row. A run takes
a cache of transformers' kind, which is where a model shows its keys and values and where others can be put in their
place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from .architecture import ModelRefused
from .interface import NAME
from .model import Model

# Largest distance of a row from the reference, relative to the typical length of a row.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
Modules = dict[int, torch.nn.Module]
Seen = Callable[[int, torch.Tensor], torch.Tensor | None]


@dataclass(slots=True)
class Probe:
    """One sequence of the self-test: its tokens, block table, and how far it has come."""

    tokens: torch.Tensor
    table: np.ndarray
    done: int = 0


class Seeing(DynamicCache):  # type: ignore[misc]  # transformers is untyped
    """Notes the [2, kv_heads, T, d] keys and values of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[int, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer calls with its new keys and values; it attends to what this returns."""
        self.content[layer_idx] = torch.cat([key_states, value_states])
        return key_states, value_states


class Replacing(DynamicCache):  # type: ignore[misc]
    """Gives each layer other keys and values than its own: ``content`` as ``Seeing`` notes it."""

    def __init__(self, content: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self._content = content

    def update(
        self, _keys: torch.Tensor, _values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Seeing``."""
        key, value = self._content[layer_idx].unsqueeze(1)
        return key, value


@dataclass(frozen=True, slots=True)
class Reference:
    """What eager attention gives, for each sequence: logits, and by layer its attention module's output and [2,
    kv_heads, T, d] keys and values.
    """

    logits: list[torch.Tensor]
    outputs: list[dict[int, torch.Tensor]]
    content: list[dict[int, torch.Tensor]]


@contextmanager
def hooks(modules: Modules, seen: Seen) -> Iterator[None]:
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


def reference(model: Model, modules: Modules, probes: list[Probe]) -> Reference:
    """Every sequence alone through the model's own eager attention."""
    found = Reference([], [], [])
    for probe in probes:
        outputs: dict[int, torch.Tensor] = {}
        cache = Seeing()
        found.logits.append(eager(model, modules, probe, cache, _noted_in(outputs)))
        found.outputs.append(outputs)
        found.content.append(cache.content)
    return found


def _noted_in(outputs: dict[int, torch.Tensor]) -> Seen:
    """Note a layer's output of one sequence; it stays as it is."""

    def note(layer: int, output: torch.Tensor) -> None:
        outputs[layer] = output[0]

    return note


def eager(model: Model, modules: Modules, probe: Probe, cache: DynamicCache, seen: Seen) -> torch.Tensor:
    """[T, vocab] logits of one sequence under eager attention. Raises ModelRefused."""
    try:
        model.module.set_attn_implementation("eager")
        with torch.inference_mode(), hooks(modules, seen):
            ids = probe.tokens.unsqueeze(0).to(model.device)
            logits: torch.Tensor = model.module(input_ids=ids, past_key_values=cache, use_cache=False).logits
    except (ValueError, NotImplementedError) as error:
        if isinstance(error, ModelRefused):
            raise
        raise ModelRefused(f"self-test: the model has no eager attention to compare with: {error}") from error
    finally:
        model.module.set_attn_implementation(NAME)
    return logits[0].float()


def judge(
    what: str, got: torch.Tensor, expected: torch.Tensor, positions: np.ndarray, dtype: torch.dtype | None = None
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
            f" (allowed: {limit:g}) at position {int(positions[worst])}"
        )
