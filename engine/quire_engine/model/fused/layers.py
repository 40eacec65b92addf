"""Norms and gated feed-forward layers in fewer passes, for models that compute in float32 or bfloat16 on a CPU.

transformers writes them as chains of small operations, each of which reads and writes all rows and wakes all threads:
beside packed products they were a seventh of a step. A norm becomes one call of our own; of a gated layer, activation
and product are applied to what is still in the processor's nearest cache; a mixture's experts are two calls.

No model is known by name. A layer is taken for what its parts look like, and replaced only if it then computes what
it computed before, tried on rows of very different size, in the type that the model computes in: some models keep the
weights of their norms in float32 and compute in another. Everything else stays as it is.

In bfloat16 the same means the same numbers, every rounding on the way included: sums in another order may move a
number over the middle between two, which happens to few, and then by one place. What rounds otherwise differs in a
third of its numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch

from quire_kernels.cpu.host_library import NoHostLibrary
from quire_kernels.cpu.linear import LINEAR_DTYPES, cpu_linear
from quire_kernels.cpu.norm import cpu_norm

from .layer_parts import LayerParts
from .linear import PackedLinear
from .replacement import replace_layers

ROW_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-7}  # relative to the largest output, of each row
NEIGHBOURS = 1 / 16  # of the numbers in bfloat16, at most
SCALES = (1e-2, 1.0, 30.0)  # of the rows that are tried
PRODUCTS = ("gate_proj", "up_proj", "down_proj")
FusedForm = tuple[torch.nn.Module, int, torch.dtype]  # and width and type of the rows that it takes


class FusedNorm(torch.nn.Module):
    """RMS normalisation with a weight.

    Attributes:
        weight: the layer's own, for inspection.
    """

    def __init__(self, weight: torch.Tensor, factors: torch.Tensor, eps: float, rounds: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        self._factors, self._rounds = factors, rounds

    def parts(self) -> LayerParts:
        """What it is made of, see ``LayerParts``."""
        tensors: dict[str, list[torch.Tensor]] = {"weight": [self.weight], "factors": [self._factors]}
        return LayerParts({"eps": self.eps, "rounds": self._rounds}, tensors)

    @classmethod
    def from_parts(cls, _layer: torch.nn.Module, parts: LayerParts) -> FusedNorm:
        """The layer that gave these."""
        (weight,), (factors,) = parts.tensors["weight"], parts.tensors["factors"]
        return cls(weight, factors, parts.numbers["eps"], bool(parts.numbers["rounds"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., n] -> [..., n]."""
        return cpu_norm(x, self._factors, self.eps, torch.get_num_threads(), self._rounds)


class FusedGate(torch.nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, gate: PackedLinear, up: PackedLinear, down: PackedLinear) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down
        self._inner = (up.gated_by(gate),)

    def parts(self) -> LayerParts:
        """None of its own: its three products have theirs."""
        return LayerParts()

    @classmethod
    def from_parts(cls, layer: torch.nn.Module, _parts: LayerParts) -> FusedGate:
        """Of the products in ``layer``."""
        gate, up, down = (getattr(layer, name) for name in PRODUCTS)
        return cls(gate, up, down)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        out: torch.Tensor = self.down_proj(cpu_linear(x, self._inner, torch.get_num_threads())[0])
        return out


@torch.no_grad()
def fuse_layers(module: torch.nn.Module) -> int:
    """Replace the layers of ``module`` that have a fused form here; returns how many were replaced."""
    computed = next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), torch.float32)
    return replace_layers(module, lambda layer: _fused(layer, computed))


def _fused(layer: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module | None:
    """The fused form of ``layer``, proved on it; None if there is none. ``dtype``: what the model computes in."""
    if len(inspect.signature(layer.forward).parameters) != 1:  # some norms take a gate along
        return None
    for candidate, width, rows in (*_norm(layer, dtype), *_gate(layer)):
        try:
            if _same(layer, candidate, width, rows):
                return candidate
        except (AttributeError, NoHostLibrary, RuntimeError, ValueError):
            pass  # of sizes the kernels do not know: the layer stays
    return None


def _norm(layer: torch.nn.Module, dtype: torch.dtype) -> Iterator[FusedForm]:
    """A norm is one vector and an epsilon; some add 1 to the vector, some round before it is multiplied in."""
    parameters = dict(layer.named_parameters())
    eps = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    if list(parameters) == ["weight"] and isinstance(eps, float) and not list(layer.children()):
        weight = parameters["weight"].detach()
        if weight.dim() == 1 and weight.dtype in LINEAR_DTYPES and weight.device.type == "cpu":
            wide = weight.float().contiguous()
            for factors, rounds in ((wide, True), (wide, False), (1.0 + wide, False)):
                yield FusedNorm(weight, factors, eps, rounds), len(weight), dtype


def _gate(layer: torch.nn.Module) -> Iterator[FusedForm]:
    """A gated layer is three packed products and an activation."""
    parts = dict(layer.named_children())
    if set(parts) == {*PRODUCTS, "act_fn"}:
        gate, up, down = (parts[name] for name in PRODUCTS)
        if isinstance(gate, PackedLinear) and isinstance(up, PackedLinear) and isinstance(down, PackedLinear):
            yield FusedGate(gate, up, down), gate.in_features, gate.product.weight.dtype


def _same(layer: torch.nn.Module, candidate: torch.nn.Module, width: int, dtype: torch.dtype) -> bool:
    """Whether both give the same for rows of every scale, and for zeros."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, len(SCALES) + 1, width, generator=draw) * torch.tensor([*SCALES, 0.0])[:, None]
    x = x.to(dtype)
    expected, got = layer(x), candidate(x)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    error = (got.float() - expected.float()).abs()
    near = bool((error.amax(-1) <= ROW_TOLERANCE[dtype] * expected.float().abs().amax(-1)).all())
    return near and (dtype == torch.float32 or float((error > 0).float().mean()) <= NEIGHBOURS)
