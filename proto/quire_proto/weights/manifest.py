"""The manifest of a weights arena: which tensors lie where, and what a manifest may not say.

It comes in pieces, and is checked as it comes; that no two tensors overlap, when all are there. Several names may
stand for one tensor, as where a model's head is its embedding: then all they say of it is the same. Both sides check,
for neither trusts what would have it read outside the arena.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from quire_proto.messages.weights import WeightTensor

ITEM_BYTES = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
MAX_TENSORS = 1 << 18
MAX_NAME = 512
MAX_DIMENSIONS = 8
ALIGNMENT = 256  # of every tensor, as allocators of a GPU do it: vector loads of any kernel are aligned then


class BadManifest(ValueError):
    """A manifest that cannot be true of its arena; the message says why."""


def tensor_bytes(tensor: WeightTensor) -> int:
    """Bytes of a tensor of a known dtype."""
    return math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]


class Manifest:
    """What is declared of an arena of ``size`` bytes so far."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tensors: dict[str, WeightTensor] = {}

    def add(self, tensors: Iterable[WeightTensor]) -> None:
        """Declare further tensors. Raises BadManifest."""
        for tensor in tensors:
            name = tensor.name
            if not name.isascii() or not 0 < len(name) <= MAX_NAME:
                raise BadManifest(f"{name[:80]!r}: a name is 1 to {MAX_NAME} characters of ASCII")
            if name in self.tensors:
                raise BadManifest(f"{name[:80]!r} is declared twice")
            if len(self.tensors) == MAX_TENSORS:
                raise BadManifest(f"more than {MAX_TENSORS:,} tensors")
            if tensor.dtype not in ITEM_BYTES:
                raise BadManifest(f"{name[:80]!r}: dtype {tensor.dtype[:40]!r} is none of {', '.join(ITEM_BYTES)}")
            if len(tensor.shape) > MAX_DIMENSIONS or tensor.offset % ALIGNMENT:
                rule = f"at most {MAX_DIMENSIONS} dimensions, and an offset that is a multiple of {ALIGNMENT}"
                raise BadManifest(f"{name[:80]!r}: {rule}")
            if tensor.offset + tensor_bytes(tensor) > self.size:
                raise BadManifest(f"{name[:80]!r} reaches beyond the {self.size:,} bytes of the arena")
            self.tensors[name] = tensor

    def complete(self, count: int) -> None:
        """Raise BadManifest unless exactly so many tensors are declared, and no two of them overlap."""
        if len(self.tensors) != count:
            raise BadManifest(f"{len(self.tensors)} tensors were declared, not {count}")
        before: WeightTensor | None = None
        for tensor in sorted(self.tensors.values(), key=lambda one: (one.offset, tensor_bytes(one))):
            overlaps = before is not None and tensor.offset < before.offset + tensor_bytes(before)
            if before is not None and overlaps and _place(tensor) != _place(before):
                raise BadManifest(f"{tensor.name[:80]!r} overlaps {before.name[:80]!r}")
            before = tensor


def _place(tensor: WeightTensor) -> tuple[object, ...]:
    return tensor.offset, tensor.dtype, tensor.shape
