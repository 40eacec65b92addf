"""Norms and gated feed-forward layers in one launch each, for models on a GPU.

No model is known by name. A layer is taken for what its parts look like, and replaced only if it then computes what it
computed before (``trial``); the forms that modelling files have are tried one after another. Everything else stays as
it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch

from quire_engine.model.fused.replacement import replace_layers
from quire_kernels.gpu.layers.gate import ACTIVATIONS, gate
from quire_kernels.gpu.layers.norm import FORMS, norm

from .trial import agree, near, rows_for_trial

PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class GpuNorm(torch.nn.Module):
    """RMS normalisation with a weight; see :func:`norm` for its ``form``."""

    def __init__(self, weight: torch.nn.Parameter, eps: float, form: str) -> None:
        super().__init__()
        self.weight, self.eps, self.form = weight, eps, form

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., n] -> [..., n]."""
        return norm(x, self.weight, self.eps, self.form)


class GpuGate(torch.nn.Module):
    """``down(activation(gate(x)) * up(x))``."""

    def __init__(self, parts: dict[str, torch.nn.Module], activation: str) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (parts[name] for name in ("gate_proj", "up_proj", "down_proj"))
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        out: torch.Tensor = self.down_proj(gate(self.gate_proj(x), self.up_proj(x), self.activation))
        return out


@torch.no_grad()
def fuse_gpu_layers(module: torch.nn.Module) -> int:
    """Replace the layers of ``module`` that have a fused form here; returns how many were replaced."""
    computed = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    if computed is None:
        return 0
    return replace_layers(module, lambda layer: _fused(layer, computed))


def _fused(layer: torch.nn.Module, computed: torch.Tensor) -> torch.nn.Module | None:
    """The fused form of ``layer``, proved on it for rows like ``computed``; None if there is none."""
    if len(inspect.signature(layer.forward).parameters) != 1:  # some norms take a gate along
        return None
    for candidates, judge in ((_norms(layer), agree), (_gates(layer, computed), near)):
        try:
            for candidate, width in candidates:
                x = rows_for_trial(width, computed)
                if judge(candidate(x), layer(x)):
                    return candidate
        except (AttributeError, TypeError, ValueError):
            pass  # of sizes or dtypes that the kernels do not know, or it takes something else
    return None


def _norms(layer: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, int]]:
    """A norm is one vector and an epsilon."""
    parameters = dict(layer.named_parameters())
    eps = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    if list(parameters) == ["weight"] and isinstance(eps, float) and not list(layer.children()):
        weight = parameters["weight"]
        if weight.dim() == 1:
            for form in FORMS:
                yield GpuNorm(weight, eps, form), len(weight)


def _gates(layer: torch.nn.Module, computed: torch.Tensor) -> Iterator[tuple[torch.nn.Module, int]]:
    """A gated layer is three products and an activation, which is tried by itself."""
    parts = dict(layer.named_children())
    products = {name: part for name, part in parts.items() if type(part) is torch.nn.Linear}
    if set(parts) == PARTS and set(products) == PARTS - {"act_fn"}:
        first = products["gate_proj"]
        gated = rows_for_trial(first.out_features, computed)
        up = gated.flip(-1).contiguous()
        for activation in ACTIVATIONS:
            if agree(gate(gated, up, activation), parts["act_fn"](gated) * up):
                yield GpuGate(parts, activation), first.in_features
