"""cpu_linear: linear layers on a CPU whose rows do not depend on each other; the compiled loops are in ``linear.c``.

Libraries choose another order of addition for other numbers of rows, so the same row would come out different in
another batch. Here each product has one order, in float32 and in bfloat16. Weights are packed once, in the order that
the inner loop reads them in. Several products of the same rows are one call: threads are woken once, and divide the
panels of all of them.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .call import addresses, structure
from .host_library import load

# linear_part and linear_args of the C source
Part = structure(("x", "weight", "gate", "bias", "gate_bias", "result"), ("rows", "outputs", "first"))
_Arguments = structure(("parts",), ("count", "inputs", "bfloat"))
LINEAR_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight as the kernel reads it.

    Attributes:
        panels: contiguous, zeros behind the last output: [panels, inputs, outputs of a panel] float32, or
            [panels, pairs of inputs, outputs of a panel, 2] bfloat16.
        outputs: how many there are.
    """

    panels: torch.Tensor
    outputs: int

    @classmethod
    def of(cls, weight: torch.Tensor) -> PackedWeight:
        """Pack ``weight`` [outputs, inputs] of one of ``LINEAR_DTYPES``; of bfloat16 inputs are even.

        Raises ValueError for another, NoHostLibrary.
        """
        if weight.dim() != 2 or weight.dtype not in LINEAR_DTYPES or weight.device.type != "cpu" or not weight.numel():
            raise ValueError(
                f"a float32 or bfloat16 matrix on the CPU, not {tuple(weight.shape)} of {weight.dtype} there"
            )
        outputs, inputs = weight.shape
        step = 1 if weight.dtype == torch.float32 else 2
        if inputs % step:
            raise ValueError(f"an even number of inputs in bfloat16, not {inputs}")
        panel = int(load().quire_cpu_panel())
        count, whole = -(-outputs // panel), outputs // panel
        panels = torch.zeros((count, inputs // step, panel, step), dtype=weight.dtype)
        pairs = weight.reshape(outputs, inputs // step, step)
        panels[:whole] = pairs[: whole * panel].view(whole, panel, inputs // step, step).transpose(1, 2)
        if count > whole:
            panels[-1, :, : outputs - whole * panel] = pairs[whole * panel :].transpose(0, 1)
        return cls(panels if step > 1 else panels.squeeze(3), outputs)

    @property
    def inputs(self) -> int:
        """Numbers of a row."""
        return self.panels.shape[1] * (self.panels.shape[3] if self.panels.dim() == 4 else 1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weight, and of what it is multiplied by."""
        return self.panels.dtype

    def dense(self) -> torch.Tensor:
        """[outputs, inputs], a new tensor."""
        return self.panels.transpose(1, 2).reshape(-1, self.inputs)[: self.outputs].contiguous()


class Product:
    """``x @ weight.T + bias``; with ``gate`` that times ``silu(x @ gate.T + gate_bias)``.

    In bfloat16 sums are float32, and what modelling code would store is rounded to bfloat16: the product, the gate's,
    and its silu.

    Args:
        weight, gate: of one shape and dtype.
        bias, gate_bias: [outputs] float32.

    Raises ValueError for others.
    """

    def __init__(
        self,
        weight: PackedWeight,
        bias: torch.Tensor | None = None,
        gate: PackedWeight | None = None,
        gate_bias: torch.Tensor | None = None,
    ) -> None:
        self.weight, self.outputs = weight, weight.outputs
        if gate is not None and (gate.inputs, gate.outputs, gate.dtype) != (weight.inputs, self.outputs, weight.dtype):
            raise ValueError(
                f"a {gate.dtype} gate from {gate.inputs} to {gate.outputs} beside a {weight.dtype} weight"
                f" from {weight.inputs} to {self.outputs}"
            )
        for one in (bias, gate_bias):
            if one is not None and (
                one.shape != (self.outputs,) or one.dtype != torch.float32 or not one.is_contiguous()
            ):
                raise ValueError(
                    f"a bias {tuple(one.shape)} of {one.dtype}: expected {self.outputs} contiguous float32"
                )
        self._read = (weight.panels, None if gate is None else gate.panels, bias, gate_bias)
        self._addresses = addresses(*self._read)

    def part(self, x: int, result: int, rows: int) -> ctypes.Structure:
        """What the kernel is told, of ``rows`` rows at the address ``x``."""
        return Part(x, *self._addresses, result, rows, self.outputs, 0)


def cpu_linear(x: torch.Tensor, products: Sequence[Product], threads: int = 1) -> list[torch.Tensor]:
    """Each of ``products`` for the rows of ``x``.

    Args:
        x: [..., inputs], of the weights' dtype.
        products: one or more, of as many inputs each.
        threads: how many work at once.

    Returns:
        For each [..., outputs], contiguous.

    Raises:
        ValueError: shapes or dtypes it does not know.
        NoHostLibrary: it cannot be compiled here.
    """
    inputs, dtype = products[0].weight.inputs, products[0].weight.dtype
    if any(product.weight.inputs != inputs or product.weight.dtype != dtype for product in products):
        raise ValueError("products of different rows in one call")
    if x.dtype != dtype or x.shape[-1:] != (inputs,):
        raise ValueError(f"{dtype} rows of {inputs}, not {x.dtype} {tuple(x.shape)}")
    rows, number, leading = factors(x), x.numel() // inputs, x.shape[:-1]
    results = [torch.empty((*leading, product.outputs), dtype=dtype) for product in products]
    parts = (Part * len(products))(
        *(
            product.part(rows.data_ptr(), result.data_ptr(), number)
            for product, result in zip(products, results, strict=True)
        )
    )
    run_parts(ctypes.addressof(parts), len(products), inputs, dtype, threads)
    return results


def factors(x: torch.Tensor) -> torch.Tensor:
    """``x`` as the kernel reads rows: contiguous, and float32 where the processor multiplies no bfloat16."""
    return x.contiguous() if x.dtype == torch.float32 or _pairs() else x.float().contiguous()


def run_parts(parts: int, count: int, inputs: int, dtype: torch.dtype, threads: int) -> None:
    """Compute ``count`` parts that lie at the address ``parts``; what they point to was checked by the caller."""
    arguments = _Arguments(parts, count, inputs, dtype == torch.bfloat16)
    load().quire_cpu_linear(ctypes.byref(arguments), ctypes.c_int64(threads))


@functools.cache
def _pairs() -> bool:
    return bool(load().quire_cpu_multiplies_pairs())
