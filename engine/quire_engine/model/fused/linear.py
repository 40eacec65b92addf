"""Linear layers of our own, for models that compute in float32 on a CPU.

torch's ``linear``, and oneDNN's, add up in another order for other numbers of rows: a token's logits would depend on
what else is in the step, and a near decision with them. Our kernel has one order (``quire_kernels.cpu.linear``), and
is no slower: weights are packed once, which libraries that do not own them cannot do, and a call costs a tenth of
theirs.

Invariants: a layer computes what it computed before, to rounding; the dense weight is given up, so a model takes no
more memory (but for a head that shared its weight with the embedding). Without a compiled library all layers stay as
they are.
"""

from __future__ import annotations

import structlog
import torch

from quire_kernels.cpu.host_library import NoHostLibrary
from quire_kernels.cpu.linear import PackedWeight, cpu_linear

log = structlog.get_logger()
PRODUCT_TOLERANCE = 1e-4  # relative to the largest output


class PackedLinear(torch.nn.Module):
    """``x @ weight.T + bias`` with the weight in our kernel's order."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = PackedWeight.of(linear.weight.detach())

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, [out, in], unpacked anew at each call, for inspection."""
        return self._packed.dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return cpu_linear(x, self._packed, self.bias, threads=torch.get_num_threads())

    def gated(self, x: torch.Tensor, gate: PackedLinear) -> torch.Tensor:
        """What :meth:`forward` gives, times ``silu`` of what ``gate`` gives."""
        return cpu_linear(x, self._packed, self.bias, gate._packed, gate.bias, torch.get_num_threads())


@torch.no_grad()
def fuse_linear(module: torch.nn.Module) -> int:
    """Replace the linear layers of ``module`` that compute in float32 on a CPU; returns how many were replaced."""
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is torch.nn.Linear and child.weight.dtype == torch.float32 and child.weight.device.type == "cpu"
    ]
    if not found or not _works():
        return 0
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))
    return len(found)


def _works() -> bool:
    """Whether the kernel is there and multiplies rightly; the log says why not."""
    draw = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(48, 80)
    linear.weight.copy_(torch.randn(80, 48, generator=draw))
    x = torch.randn(2, 5, 48, generator=draw)
    try:
        got = PackedLinear(linear)(x)
    except NoHostLibrary as exc:
        log.info("linear_layers_not_packed", reason=str(exc))
        return False
    right = bool((got - linear(x)).abs().max() <= PRODUCT_TOLERANCE * linear(x).abs().max())
    if not right:
        log.warning("linear_layers_not_packed", reason="the compiled kernel gives something else than torch's linear")
    return right
