"""Where each tensor of a model lies in an arena of weights: planned by its writer, read back out of the manifest.

Owns the names in a manifest: what a tensor is to its layer (``description``) and its path, so a manifest is all that a
model is put together from. No layer is fused in it: fused forms of a GPU have no weights of their own.

Tensors that are one in the model are one in the arena. What is an attribute of a layer, and neither parameter nor
buffer, is copied to the host, where loading leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from quire_engine.checkpoint.shared.directory import Unshared
from quire_engine.model.shared.description import ATTRIBUTE
from quire_proto.messages.weights import WeightTensor
from quire_proto.weights.manifest import ALIGNMENT, BadManifest, Manifest, tensor_bytes


class ArenaPlan:
    """The places of a described model's tensors. Raises Unshared for a model that no manifest can name.

    Attributes:
        size: bytes of the arena.
        manifest: one entry for each name.
    """

    def __init__(self, table: Mapping[str, Any], tensors: Sequence[torch.Tensor]) -> None:
        assert not table["layers"], "a fused layer: what is kept for a GPU is not fused"
        self.size = 0
        self._pieces: list[tuple[int, torch.Tensor]] = []
        for tensor in tensors:
            self._pieces.append((self.size, tensor))
            self.size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.manifest = tuple(self._told(kind, path, number) for kind, path, number in table["held"])
        try:
            Manifest(self.size).add(self.manifest)
        except BadManifest as why:
            raise Unshared(f"an arena cannot hold this model: {why}") from None

    def upload(self, memory: torch.Tensor) -> None:
        """Write every tensor to its place in ``memory``, the bytes of the arena."""
        for offset, tensor in self._pieces:
            place = memory[offset : offset + tensor.nbytes]
            place.view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def _told(self, kind: str, path: str, number: int) -> WeightTensor:
        offset, tensor = self._pieces[number]
        return WeightTensor(f"{kind} {path}", str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset)


def planned_tensors(
    manifest: Sequence[WeightTensor], memory: torch.Tensor
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """The table and the tensors that ``description.put_together`` takes, as views of ``memory``."""
    held: list[list[Any]] = []
    tensors: list[torch.Tensor] = []
    numbers: dict[Any, int] = {}
    for told in manifest:
        kind, _, path = told.name.partition(" ")
        on_host = kind == ATTRIBUTE
        place = (on_host, told.offset, told.dtype, told.shape)
        if place not in numbers:
            numbers[place] = len(tensors)
            content = memory[told.offset : told.offset + tensor_bytes(told)]
            tensor = content.view(getattr(torch, told.dtype)).view(told.shape)
            tensors.append(tensor.cpu() if on_host else tensor)
        held.append([kind, path, numbers[place]])
    return {"layers": [], "held": held}, tensors
