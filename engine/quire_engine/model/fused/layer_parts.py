"""What a fused layer is made of: so that a process which has these parts has the layer, without the weights that it was
made from, and without proving once more that it computes what they did.

Each fused layer that has weights gives its parts (``parts``) and is made of such (``from_parts``, which also gets the
layer in whose place it comes). Both are of one piece of code, and whoever keeps parts keeps its version with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One layer's.

    Attributes:
        numbers: sizes and switches.
        tensors: by what they are to it; none of them is ever written.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    tensors: Mapping[str, Sequence[torch.Tensor]] = field(default_factory=dict)
