"""Linear layers of our own, for models that compute in float32 or bfloat16 on a CPU.

torch's ``linear``, and oneDNN's, add up in another order for other numbers of rows: a token's logits would depend on
what else is in the step, and a near decision with them. Our kernel has one order (``quire_kernels.cpu.linear``), and
is no slower: weights are packed once, which libraries that do not own them cannot do, and a call costs a tenth of
theirs.

Modelling code asks for queries, keys and values of the same rows one after another: three calls, of which two are too
narrow for all threads. The first one's call computes all three (``RowMates``), and the others find theirs made. Nothing
depends on that: a layer that is asked for other rows than those computes them itself.

Invariants: a layer computes what it computed before, to rounding; the dense weight is given up, so a model takes no
more memory (but for a head that shared its weight with the embedding). Without a compiled library all layers stay as
they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import torch

from quire_kernels.cpu.host_library import NoHostLibrary
from quire_kernels.cpu.linear import LINEAR_DTYPES, PackedWeight, Product, cpu_linear

from .layer_parts import LayerParts

log = structlog.get_logger()
PRODUCT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-7}  # relative to the largest output
MATES = ("q_proj", "k_proj", "v_proj")  # in the order in which modelling code asks for them


class PackedLinear(torch.nn.Module):
    """``x @ weight.T + bias`` with the weight in our kernel's order.

    Attributes:
        product: what the kernel computes.
        mates: the layers that are asked for the same rows, if any.
    """

    def __init__(self, weight: PackedWeight, bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.in_features, self.out_features = weight.inputs, weight.outputs
        self.bias = bias
        self._float_bias = None if bias is None else bias.detach().float().contiguous()
        self.product = Product(weight, self._float_bias)
        self.mates: RowMates | None = None

    @classmethod
    def of(cls, linear: torch.nn.Linear) -> PackedLinear:
        """The same layer, with a packed copy of its weight."""
        return cls(PackedWeight.of(linear.weight.detach()), linear.bias)

    def parts(self) -> LayerParts:
        """What it is made of, see ``LayerParts``."""
        bias = [] if self.bias is None else [self.bias]
        return LayerParts({"outputs": self.out_features}, {"panels": [self.product.weight.panels], "bias": bias})

    @classmethod
    def from_parts(cls, _layer: torch.nn.Module, parts: LayerParts) -> PackedLinear:
        """The layer that gave these."""
        (panels,), bias = parts.tensors["panels"], parts.tensors["bias"]
        kept = torch.nn.Parameter(bias[0], requires_grad=False) if bias else None
        return cls(PackedWeight(panels, int(parts.numbers["outputs"])), kept)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, [out, in], unpacked anew at each call, for inspection."""
        return self.product.weight.dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return self.alone(x) if self.mates is None else self.mates.compute(self, x)

    def alone(self, x: torch.Tensor) -> torch.Tensor:
        """What :meth:`forward` gives, and nothing for others."""
        return cpu_linear(x, (self.product,), torch.get_num_threads())[0]

    def gated_by(self, gate: PackedLinear) -> Product:
        """What :meth:`forward` gives, times ``silu`` of what ``gate`` gives."""
        return Product(self.product.weight, self._float_bias, gate.product.weight, gate._float_bias)


class RowMates:
    """Layers that are asked for the same rows one after another, the first one first.

    If what was computed for them is not fetched before the first is asked again, the model does not do so: they are
    separated for good.
    """

    def __init__(self, layers: Sequence[PackedLinear]) -> None:
        self._layers = list(layers)
        self._products = [layer.product for layer in layers]
        self._x: torch.Tensor | None = None
        self._made: dict[PackedLinear, torch.Tensor] = {}
        for layer in layers:
            layer.mates = self

    def compute(self, layer: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        """What ``layer`` gives for ``x``."""
        if layer is not self._layers[0]:
            if self._x is not x or layer not in self._made:
                return layer.alone(x)
            found = self._made.pop(layer)
            if not self._made:
                self._x = None
            return found
        if self._made:
            self._separate()
            return layer.alone(x)
        self._x, (first, *others) = x, cpu_linear(x, self._products, torch.get_num_threads())
        self._made = dict(zip(self._layers[1:], others, strict=True))
        return first

    def _separate(self) -> None:
        for layer in self._layers:
            layer.mates = None
        self._x, self._made = None, {}


@torch.no_grad()
def fuse_linear(module: torch.nn.Module) -> int:
    """Replace the linear layers of ``module`` that the kernel can compute; returns how many were replaced."""
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is torch.nn.Linear and _known(child)  # what derived classes do is not known
    ]
    if not found or not all(_works(dtype) for dtype in {child.weight.dtype for _, _, child in found}):
        return 0
    for parent, name, child in found:
        setattr(parent, name, PackedLinear.of(child))
    join_mates(module)
    return len(found)


def join_mates(module: torch.nn.Module) -> None:
    """Have the packed layers in ``module`` that are asked for the same rows compute them together."""
    for parent in module.modules():
        _join(parent)


def _known(layer: torch.nn.Linear) -> bool:
    dtype, even = layer.weight.dtype, layer.in_features % 2 == 0
    return layer.weight.device.type == "cpu" and dtype in LINEAR_DTYPES and (even or dtype == torch.float32)


def _join(parent: torch.nn.Module) -> None:
    layers = [layer for name in MATES if isinstance(layer := getattr(parent, name, None), PackedLinear)]
    if len(layers) == len(MATES) and len({(layer.in_features, layer.product.weight.dtype) for layer in layers}) == 1:
        RowMates(layers)


def _works(dtype: torch.dtype) -> bool:
    """Whether the kernel is there and multiplies rightly; the log says why not."""
    draw = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(48, 80, dtype=dtype)
    linear.weight.copy_(torch.randn(80, 48, generator=draw))
    x = torch.randn(2, 5, 48, generator=draw).to(dtype)
    try:
        got = PackedLinear.of(linear)(x)
    except NoHostLibrary as exc:
        log.info("linear_layers_not_packed", reason=str(exc))
        return False
    right = bool((got - linear(x)).abs().max() <= PRODUCT_TOLERANCE[dtype] * linear(x).abs().max())
    if not right:
        log.warning("linear_layers_not_packed", reason="the compiled kernel gives something else than torch's linear")
    return right
