"""Tensors as bytes in files, and bytes in files as tensors that cannot be written.

Owns the list that stands in an entry's table: of each tensor its type, shape and strides, and where its bytes are, in a
piece of the entry or in a file of the checkpoint. What lies in the checkpoint's file already is not written again: who
maps that file shares it.

A tensor over a mapping has its mapping's rights: writing to it ends the process. Whatever changes weights has to do so
before they are written.
"""

from __future__ import annotations

import mmap
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from quire_engine.checkpoint.shared.entry import Entry

from .mapped_files import MappedFiles, span


class TensorsAsPieces:
    """Tensors on their way into an entry, from a model that is loaded from ``directory``.

    Attributes:
        table: of each, where it will be.
        sizes: of the pieces.
        given_up: whether some have lost their content on the way.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], directory: Path) -> None:
        files = MappedFiles(directory)
        checkpoint = _Checkpoint(directory)
        self.table: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.given_up = False
        self._written: list[torch.Tensor] = []
        for tensor in tensors:
            if span(tensor) != tensor.nbytes:  # with gaps, or numbers that are several of the tensor's
                tensor = tensor.contiguous()
            told = {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "stride": list(tensor.stride()),
            }
            place = files.place_of(tensor)
            if place and _same_bytes(checkpoint.tensor({**told, "file": place[0], "at": place[1]}), tensor):
                self.table.append({**told, "file": place[0], "at": place[1]})
            else:
                self.table.append({**told, "piece": len(self.sizes)})
                self.sizes.append(tensor.nbytes)
                self._written.append(tensor)

    def pieces(self) -> Iterator[memoryview]:
        """The bytes of each. Once it is asked for the next, the memory of the last is given back to the system, if no
        other tensor lies there: what is written takes no second place while the rest is."""
        left = Counter(tensor.untyped_storage().data_ptr() for tensor in self._written)
        for tensor in self._written:
            yield _flat(tensor).view(torch.uint8).numpy().data
            storage = tensor.untyped_storage()
            left[storage.data_ptr()] -= 1
            if not left[storage.data_ptr()]:
                self.given_up = True
                with suppress(RuntimeError):  # memory that is not torch's own
                    storage.resize_(0)


class MappedTensors:
    """The tensors of an entry: of the entry's own mapping, and of files of the checkpoint in ``directory``."""

    def __init__(self, entry: Entry, directory: Path) -> None:
        self._entry, self._memory = entry, _bytes_of(entry.memory)
        self._checkpoint = _Checkpoint(directory)

    def tensor(self, told: Mapping[str, Any]) -> torch.Tensor:
        """One of the table. Raises OSError, or ValueError or LookupError for a table that means nothing."""
        if "file" in told:
            return self._checkpoint.tensor(told)
        at, size = self._entry.pieces[told["piece"]]
        return _view(self._memory[at : at + size], told)


class _Checkpoint:
    """Files of a checkpoint, each mapped once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, torch.Tensor] = {}

    def tensor(self, told: Mapping[str, Any]) -> torch.Tensor:
        name = told["file"]
        if name not in self._files:
            if os.path.basename(name) != name:
                raise ValueError(f"{name} is no file of the checkpoint")
            with open(self._directory / name, "rb") as file:
                self._files[name] = _bytes_of(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        return _view(self._files[name][told["at"] :], told)


def _view(content: torch.Tensor, told: Mapping[str, Any]) -> torch.Tensor:
    """The tensor that begins where ``content`` does."""
    dtype = getattr(torch, told["dtype"], None)
    shape, stride = tuple(told["shape"]), tuple(told["stride"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no type {told['dtype']}")
    if 0 in shape:
        return torch.empty_strided(shape, stride, dtype=dtype)
    size = (1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))) * dtype.itemsize
    if not 0 < size <= len(content) or min(stride, default=0) < 0:
        raise ValueError(f"a tensor of {size} bytes where there are {len(content)}")
    flat = content[:size].view(dtype)
    return flat.as_strided(shape, stride, flat.storage_offset())


def _bytes_of(memory: mmap.mmap) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)  # torch's; that it is so
        return torch.frombuffer(memory, dtype=torch.uint8)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor without gaps, in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def _same_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether nothing was changed in what is a mapping of a file, which its own process alone would see."""
    return bool(torch.equal(_flat(first).view(torch.uint8), _flat(second).view(torch.uint8)))
