"""Experts of a mixture, packed as linear layers are, for models that compute in float32 or bfloat16 on a CPU.

transformers keeps all experts' weights of a layer in two tensors and multiplies by slices of them, unpacked, one
operation of PyTorch after another. Ours are two calls a layer (``quire_kernels.cpu.experts``), and a token's numbers
do not depend on which experts others chose.

No model is known by name: a layer whose only weights are a tensor of gates and ups, one half after the other, and one
of downs, is tried on rows that choose all its experts, and replaced if the same comes out.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch

from quire_kernels.cpu.experts import Experts, cpu_experts
from quire_kernels.cpu.host_library import NoHostLibrary
from quire_kernels.cpu.linear import LINEAR_DTYPES, PackedWeight, Product

from .layer_parts import LayerParts

NAMES = ("gate_up_proj", "down_proj")
TAKEN = 3  # rows, which experts, their weights
EXPERT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-6}  # relative to the largest output, of each row


class FusedExperts(torch.nn.Module):
    """The sum of ``down(silu(gate(x)) * up(x))`` over the experts that each row chose."""

    def __init__(
        self, gates: Sequence[PackedWeight], ups: Sequence[PackedWeight], downs: Sequence[PackedWeight]
    ) -> None:
        super().__init__()
        self.num_experts = len(downs)
        self._weights = {"gates": gates, "ups": ups, "downs": downs}
        self._experts = Experts(
            [Product(up, gate=gate) for gate, up in zip(gates, ups, strict=True)],
            [Product(down) for down in downs],
        )

    @classmethod
    def of(cls, gate_up: torch.Tensor, down: torch.Tensor) -> FusedExperts:
        """With packed copies of the weights: [experts, 2 inner, width], gates first, and [experts, width, inner]."""
        half = gate_up.shape[1] // 2
        gates, ups = ([PackedWeight.of(both[part]) for both in gate_up] for part in (slice(half), slice(half, None)))
        return cls(gates, ups, [PackedWeight.of(one) for one in down])

    def parts(self) -> LayerParts:
        """What it is made of, see ``LayerParts``."""
        numbers = {name: weights[0].outputs for name, weights in self._weights.items()}
        return LayerParts(numbers, {name: [one.panels for one in weights] for name, weights in self._weights.items()})

    @classmethod
    def from_parts(cls, _layer: torch.nn.Module, parts: LayerParts) -> FusedExperts:
        """The layer that gave these."""
        gates, ups, downs = (
            [PackedWeight(panels, int(parts.numbers[name])) for panels in parts.tensors[name]]
            for name in ("gates", "ups", "downs")
        )
        return cls(gates, ups, downs)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """[T, hidden] rows, [T, n] experts and weights -> [T, hidden]."""
        return cpu_experts(hidden_states, top_k_index, top_k_weights, self._experts, torch.get_num_threads())


@torch.no_grad()
def fuse_experts(module: torch.nn.Module) -> int:
    """Replace the mixtures' experts of ``module``; returns in how many layers they were replaced."""
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            found = _fused_experts(child)
            if found is not None:
                setattr(parent, name, found)
                count += 1
    return count


def _fused_experts(layer: torch.nn.Module) -> FusedExperts | None:
    weights = dict(layer.named_parameters())
    if tuple(weights) != NAMES or len(inspect.signature(layer.forward).parameters) != TAKEN:
        return None
    gate_up, down = (weights[name].detach() for name in NAMES)
    fits = gate_up.dim() == down.dim() == 3 and gate_up.shape == (len(down), 2 * down.shape[2], down.shape[1])
    if not fits or gate_up.dtype not in LINEAR_DTYPES or gate_up.device.type != "cpu":
        return None
    try:
        found = FusedExperts.of(gate_up, down)
        return found if _same_experts(layer, found, len(down), gate_up) else None
    except (NoHostLibrary, RuntimeError, TypeError, ValueError):  # no compiler, sizes that it does not know, other rows
        return None


def _same_experts(layer: torch.nn.Module, candidate: FusedExperts, count: int, weights: torch.Tensor) -> bool:
    """Whether both give the same for rows that choose two experts each, every one of them chosen."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, weights.shape[2], generator=draw).to(weights.dtype)
    index = torch.stack([torch.arange(count), (torch.arange(count) + 1) % count], dim=1)
    shares = torch.rand(count, 2, generator=draw).to(weights.dtype)
    expected, got = layer(x, index, shares), candidate(x, index, shares)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    error, size = (got.float() - expected.float()).abs().amax(-1), expected.float().abs().amax(-1)
    return bool((error <= EXPERT_TOLERANCE[weights.dtype] * size).all())
