"""Norms and gated feed-forward layers in fewer passes, for models that compute in float32 on a CPU.

transformers writes them as chains of small operations, each of which reads and writes all rows and wakes all threads:
beside packed products they were a seventh of a step. A norm becomes one call of our own; of a gated layer, activation
and product are applied to what is still in the processor's nearest cache.

No model is known by name. A layer is taken for what its parts look like, and replaced only if it then computes what
it computed before, tried on rows of very different size, in the type that the model computes in: some models keep the
weights of their norms in float32 and compute in another. Everything else stays as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch

from quire_kernels.cpu.host_library import NoHostLibrary
from quire_kernels.cpu.norm import cpu_norm

from .linear import PackedLinear

ROW_TOLERANCE = 1e-4  # relative to the largest output, of each row
SCALES = (1e-2, 1.0, 30.0)  # of the rows that are tried


class FusedNorm(torch.nn.Module):
    """RMS normalisation with a weight."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., n] -> [..., n]."""
        return cpu_norm(x, self.weight, self.eps, torch.get_num_threads())


class FusedGate(torch.nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, gate: PackedLinear, up: PackedLinear, down: PackedLinear) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        out: torch.Tensor = self.down_proj(self.up_proj.gated(x, self.gate_proj))
        return out


@torch.no_grad()
def fuse_layers(module: torch.nn.Module) -> int:
    """Replace the layers of ``module`` that have a fused form here; returns how many were replaced."""
    count = 0
    computed = next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), torch.float32)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            found = _fused(child, computed)
            if found is not None:
                setattr(parent, name, found)
                count += 1
    return count


def _fused(layer: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module | None:
    """The fused form of ``layer``, proved on it for rows of ``dtype``; None if there is none."""
    if len(inspect.signature(layer.forward).parameters) != 1:  # some norms take a gate along
        return None
    for candidate, width in (*_norm(layer), *_gate(layer)):
        try:
            if _same(layer, candidate, width, dtype):
                return candidate
        except (AttributeError, NoHostLibrary, RuntimeError, ValueError):
            pass  # of sizes the kernels do not know: the layer stays
    return None


def _norm(layer: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, int]]:
    """A norm is one vector and an epsilon."""
    parameters = dict(layer.named_parameters())
    eps = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    if list(parameters) == ["weight"] and isinstance(eps, float) and not list(layer.children()):
        weight = parameters["weight"]
        if weight.dim() == 1 and weight.dtype == torch.float32 and weight.device.type == "cpu":
            yield FusedNorm(weight.detach(), eps), len(weight)


def _gate(layer: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, int]]:
    """A gated layer is three packed products and an activation."""
    parts = dict(layer.named_children())
    if set(parts) == {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        gate, up, down = (parts[name] for name in ("gate_proj", "up_proj", "down_proj"))
        if isinstance(gate, PackedLinear) and isinstance(up, PackedLinear) and isinstance(down, PackedLinear):
            yield FusedGate(gate, up, down), gate.in_features


def _same(layer: torch.nn.Module, candidate: torch.nn.Module, width: int, dtype: torch.dtype) -> bool:
    """Whether both give the same for rows of every scale, and for zeros."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, len(SCALES) + 1, width, generator=draw) * torch.tensor([*SCALES, 0.0])[:, None]
    x = x.to(dtype)
    expected, got = layer(x), candidate(x)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    error = (got - expected).abs().amax(-1)
    return bool((error <= ROW_TOLERANCE * expected.abs().amax(-1)).all())
