"""Experts of a mixture, packed as linear layers are, for models that compute in float32 or bfloat16 on a CPU.

transformers keeps all experts' weights of a layer in two tensors and multiplies by slices of them, unpacked, one
operation of PyTorch after another. Ours are two calls a layer (``quire_kernels.cpu.experts``), and a token's numbers
do not depend on which experts others chose.

No model is known by name: a layer whose only weights are a tensor of gates and ups, one half after the other, and one
of downs, is tried on rows that choose all its experts, and replaced if the same comes out.
"""

from __future__ import annotations

import inspect

import torch

from quire_kernels.cpu.experts import Experts, cpu_experts
from quire_kernels.cpu.host_library import NoHostLibrary
from quire_kernels.cpu.linear import LINEAR_DTYPES, PackedWeight, Product

NAMES = ("gate_up_proj", "down_proj")
TAKEN = 3  # rows, which experts, their weights
EXPERT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-6}  # relative to the largest output, of each row


class FusedExperts(torch.nn.Module):
    """The sum of ``down(silu(gate(x)) * up(x))`` over the experts that each row chose."""

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        half = gate_up.shape[1] // 2
        self.num_experts = len(down)
        self._experts = Experts(
            [Product(PackedWeight.of(both[half:]), gate=PackedWeight.of(both[:half])) for both in gate_up],
            [Product(PackedWeight.of(one)) for one in down],
        )

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
        found = FusedExperts(gate_up, down)
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
