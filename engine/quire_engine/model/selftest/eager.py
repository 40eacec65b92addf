"""The reference of the self-test: transformers' eager attention, one unpadded sequence at a time.

Owns the eager runs, the hooks that see and replace what attention modules give, and the verdict on a row. A run takes
a cache of transformers' kind, which is where a model shows its keys and values and where others can be put in their
place.

The reference is exact where the model is not: the model's own eager function gets its queries, keys and values as
float32. In a narrower type it rounds every score before the softmax, which alone moves a row of a sharp head by more
than many a bug would: 4 % in bfloat16, while what is served is within one rounding of the exact result. So the
tolerance follows from the type alone, a few roundings. Logits are another matter: what attention gives is replaced by
the reference on the way there, but rounding elsewhere adds up over the layers. How far, the model shows itself: its
logits are computed once more with every attention output off by one rounding, which is half of the type's epsilon.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from quire_engine.attention.hook import ATTENTION_NAME, to_width
from quire_engine.checkpoint.architecture import ModelRefused
from quire_engine.model.model import Model

EXACT = "quire_reference"
ROUNDINGS = 4  # that a row may be away from the reference, relative to the typical length of a row
LEAST = 1e-3  # the tolerance where that is less: no bug hides below
Modules = dict[int, torch.nn.Module]
Seen = Callable[[int, torch.Tensor], torch.Tensor | None]


@dataclass(slots=True)
class Probe:
    """One sequence of the self-test: its tokens, block table, and how far it has come."""

    tokens: torch.Tensor
    table: np.ndarray
    done: int = 0


class Seeing(DynamicCache):  # type: ignore[misc]  # transformers is untyped
    """Notes the [2, kv_heads, T, d] keys and values of each layer, the narrower with zeros behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[int, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer calls with its new keys and values; it attends to what this returns."""
        width = max(key_states.shape[-1], value_states.shape[-1])
        self.content[layer_idx] = torch.cat([to_width(key_states, width), to_width(value_states, width)])
        return key_states, value_states


class Replacing(DynamicCache):  # type: ignore[misc]
    """Gives each layer other keys and values than its own: ``content`` as ``Seeing`` notes it."""

    def __init__(self, content: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self._content = content

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Seeing``."""
        key, value = self._content[layer_idx].unsqueeze(1)
        return key[..., : keys.shape[-1]], value[..., : values.shape[-1]]


@dataclass(frozen=True, slots=True)
class Reference:
    """What eager attention gives, for each sequence: logits, and by layer its attention module's output and [2,
    kv_heads, T, d] keys and values; and how far rounding may take the logits.
    """

    logits: list[torch.Tensor] = field(default_factory=list)
    outputs: list[dict[int, torch.Tensor]] = field(default_factory=list)
    content: list[dict[int, torch.Tensor]] = field(default_factory=list)


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


def tolerance(dtype: torch.dtype) -> float:
    """Largest distance of a row from the reference, relative to the typical length of a row."""
    return max(LEAST, ROUNDINGS * torch.finfo(dtype).eps)


def reference(model: Model, modules: Modules, probes: list[Probe]) -> Reference:
    """Every sequence alone through the model's own eager attention."""
    found = Reference()
    for probe in probes:
        outputs: dict[int, torch.Tensor] = {}
        cache = Seeing()
        found.logits.append(eager(model, modules, probe, cache, _noted_in(outputs)))
        found.outputs.append(outputs)
        found.content.append(cache.content)
    return found


def logits_tolerance(model: Model, modules: Modules, probes: list[Probe], expected: Reference) -> float:
    """:func:`tolerance` of logits: at least twice what one rounding of every attention output does to them."""
    least = tolerance(model.module.dtype)
    if least == LEAST:
        return least
    draw = torch.Generator().manual_seed(0)
    rounding = torch.finfo(model.module.dtype).eps / 2

    def nudged(_layer: int, output: torch.Tensor) -> torch.Tensor:
        signs = torch.randint(0, 2, output.shape, generator=draw).to(output.device) * 2 - 1
        return (output.float() * (1 + rounding * signs)).to(output.dtype)

    runs = [eager(model, modules, probe, Seeing(), nudged) for probe in probes]
    moved = [distances(run, logits).max() for run, logits in zip(runs, expected.logits, strict=True)]
    return max(least, 2 * float(torch.stack(moved).max()))


def _noted_in(outputs: dict[int, torch.Tensor]) -> Seen:
    """Note a layer's output of one sequence; it stays as it is."""

    def note(layer: int, output: torch.Tensor) -> None:
        outputs[layer] = output[0]

    return note


def eager(model: Model, modules: Modules, probe: Probe, cache: DynamicCache, seen: Seen) -> torch.Tensor:
    """[T, vocab] logits of one sequence under eager attention. Raises ModelRefused."""
    try:
        model.module.set_attn_implementation(EXACT)
        with torch.inference_mode(), hooks(modules, seen):
            ids = probe.tokens.unsqueeze(0).to(model.device)
            logits: torch.Tensor = model.module(input_ids=ids, past_key_values=cache, use_cache=False).logits
    except (ValueError, NotImplementedError) as error:
        if isinstance(error, ModelRefused):
            raise
        raise ModelRefused(f"self-test: the model has no eager attention to compare with: {error}") from error
    finally:
        model.module.set_attn_implementation(ATTENTION_NAME)
    return logits[0].float()


def _exact(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls for attention in these runs: the eager function of the module's own file, in float32."""
    scope = inspect.unwrap(type(module).forward).__globals__
    if "eager_attention_forward" not in scope:
        raise ModelRefused(f"self-test: {type(module).__name__} has no eager attention to compare with")
    out = scope["eager_attention_forward"](module, query.float(), key.float(), value.float(), attention_mask, **others)
    attended: torch.Tensor = out[0]
    return attended.to(query.dtype), None


AttentionInterface.register(EXACT, _exact)
AttentionMaskInterface.register(EXACT, eager_mask)


def distances(got: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """[T] distance of each row, relative to the typical length of a row."""
    typical = expected.float().norm(dim=-1).mean().clamp_min(1e-20)
    found: torch.Tensor = ((got.float() - expected.float()).norm(dim=-1) / typical).nan_to_num(torch.inf)
    return found


def judge(
    what: str, got: torch.Tensor, expected: torch.Tensor, positions: np.ndarray, limit: float | None = None
) -> None:
    """Raise ModelRefused unless every row of ``got`` lies within ``limit``, or else its type's tolerance, of
    ``expected``."""
    if got.shape != expected.shape:
        raise ModelRefused(f"self-test: {what} has shape {tuple(got.shape)}, eager attention {tuple(expected.shape)}")
    distance = distances(got, expected)
    worst = int(distance.argmax())
    limit = tolerance(expected.dtype) if limit is None else limit
    if not float(distance[worst]) <= limit:
        raise ModelRefused(
            f"self-test: {what} differs from the model's own eager forward pass by {float(distance[worst]):.2g}"
            f" (allowed: {limit:.2g}) at position {int(positions[worst])}"
        )
