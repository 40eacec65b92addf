"""Which file a tensor's memory is a mapping of, by the kernel's own account.

transformers maps a checkpoint, so weights that are used as they are in its file lie there and nowhere else, however
many processes have them. What was converted, packed or copied lies in memory of this process.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, order=True)
class MappedRegion:
    """Addresses from ``start`` to before ``end`` show ``file`` from ``offset`` on."""

    start: int
    end: int
    offset: int
    file: str


class MappedFiles:
    """The mappings of this process at one time, of the files in one directory; these may be links that lead out."""

    def __init__(self, directory: Path) -> None:
        with suppress(OSError):
            self._names = {str(file.resolve()): file.name for file in directory.iterdir()}
        self._regions = sorted(_regions(self._names))
        self._starts = [region.start for region in self._regions]

    def place_of(self, tensor: torch.Tensor) -> tuple[str, int] | None:
        """The file's name in the directory and the offset at which all of ``tensor`` lies there, if it does."""
        start = tensor.data_ptr()
        found = bisect.bisect_right(self._starts, start) - 1
        if found < 0:
            return None
        region = self._regions[found]
        if start + span(tensor) > region.end:
            return None
        return self._names[region.file], region.offset + start - region.start


def span(tensor: torch.Tensor) -> int:
    """Bytes from its first number to its last."""
    if not tensor.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _regions(files: dict[str, str]) -> Iterator[MappedRegion]:
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            words = line.split(maxsplit=5)  # addresses, rights, offset, device, inode, path
            if len(words) == 6 and words[5] in files:
                start, end = (int(word, 16) for word in words[0].split("-"))
                yield MappedRegion(start, end, int(words[2], 16), words[5])
