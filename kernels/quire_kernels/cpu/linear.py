"""cpu_linear: linear layers on a CPU whose rows do not depend on each other; the compiled loops are in ``linear.c``.

Libraries choose another order of addition for other numbers of rows, so the same row would come out different in
another batch. Here each product has one order. Weights are packed once, in the order that the inner loop reads them in.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from .call import addresses, structure
from .host_library import load

# linear_args of the C source
_Arguments = structure(("x", "weight", "bias", "gate", "gate_bias", "result"), ("rows", "inputs", "outputs"))


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight as the kernel reads it.

    Attributes:
        panels: [panels, inputs, outputs of a panel] float32, contiguous; zeros behind the last output.
        outputs: how many there are.
    """

    panels: torch.Tensor
    outputs: int

    @classmethod
    def of(cls, weight: torch.Tensor) -> PackedWeight:
        """Pack ``weight`` [outputs, inputs]. Raises ValueError if it is not float32, NoHostLibrary."""
        if weight.dim() != 2 or weight.dtype != torch.float32 or weight.device.type != "cpu" or not weight.numel():
            raise ValueError(f"a float32 matrix on the CPU, not {tuple(weight.shape)} of {weight.dtype}")
        outputs, inputs = weight.shape
        panel = int(load().quire_cpu_panel())
        count = -(-outputs // panel)
        panels = torch.zeros((count, inputs, panel))
        whole = outputs // panel
        panels[:whole] = weight[: whole * panel].view(whole, panel, inputs).transpose(1, 2)
        if count > whole:
            panels[-1, :, : outputs - whole * panel] = weight[whole * panel :].T
        return cls(panels, outputs)

    @property
    def inputs(self) -> int:
        """Numbers of a row."""
        return self.panels.shape[1]

    def dense(self) -> torch.Tensor:
        """[outputs, inputs], a new tensor."""
        return self.panels.transpose(1, 2).reshape(-1, self.inputs)[: self.outputs].contiguous()


def cpu_linear(
    x: torch.Tensor,
    weight: PackedWeight,
    bias: torch.Tensor | None = None,
    gate: PackedWeight | None = None,
    gate_bias: torch.Tensor | None = None,
    threads: int = 1,
) -> torch.Tensor:
    """``x @ weight.T + bias``; with ``gate`` that times ``silu(x @ gate.T + gate_bias)``.

    Args:
        x: [..., inputs] float32.
        weight, gate: of one shape.
        bias, gate_bias: [outputs] float32.
        threads: how many work at once.

    Returns:
        [..., outputs], contiguous.

    Raises:
        ValueError: shapes or dtypes it does not know.
        NoHostLibrary: it cannot be compiled here.
    """
    inputs, outputs = weight.inputs, weight.outputs
    if x.dtype != torch.float32 or x.shape[-1:] != (inputs,):
        raise ValueError(f"float32 rows of {inputs}, not {x.dtype} {tuple(x.shape)}")
    if gate is not None and (gate.inputs, gate.outputs) != (inputs, outputs):
        raise ValueError(f"a gate from {gate.inputs} to {gate.outputs} beside a weight from {inputs} to {outputs}")
    for one in (bias, gate_bias):
        if one is not None and (one.shape != (outputs,) or one.dtype != torch.float32 or not one.is_contiguous()):
            raise ValueError(f"a bias {tuple(one.shape)} of {one.dtype}: expected {outputs} contiguous float32")
    x = x.contiguous()
    result = torch.empty((*x.shape[:-1], outputs))
    tensors = (x, weight.panels, bias, None if gate is None else gate.panels, gate_bias, result)
    arguments = _Arguments(*addresses(*tensors), x.numel() // inputs, inputs, outputs)
    load().quire_cpu_linear(ctypes.byref(arguments), ctypes.c_int64(threads))
    return result
