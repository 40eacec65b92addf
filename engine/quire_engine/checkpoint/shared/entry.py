"""An entry: one file with the weights of one key, and the table that says what lies where.

    header   magic, length of the table, length of the file, digests of table and of samples
    table    JSON: the entry's name, what the writer says of its pieces, and the place of each
    pieces   each from a whole page on, if it is as large as one

The header is written last, so a file without it is a draft of which nothing is believed. What is believed is checked
each time: lengths, the table's digest, and a digest of samples spread over the whole file, which notices a file that
was cut off, lost pages or was overwritten, in some milliseconds. Of a file larger than the samples, as of a checkpoint
of that size, a damage of few bytes between them is not noticed.

Nothing here knows tensors. Pieces are bytes; the mapping of them cannot be written.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

MAGIC = b"quire weights 1\n"
PAGE, LINE = 4096, 64  # alignments: of pieces that are mapped, and of what fits in a page
CHECKED_PARTS, CHECKED_BYTES = 256, 64 << 10
MOST_TABLE = 256 << 20
_HEADER = struct.Struct("<16sQQ32s32s")


class EntryDamaged(Exception):
    """The file is not what was written; the message says in what way."""


class Entry:
    """A whole entry, mapped.

    Attributes:
        content: what its writer said.
        memory: the file, read-only.
        pieces: offset and length of each piece in it.
        fd: the open file, whose lock says that it is in use.
    """

    def __init__(self, fd: int, name: str) -> None:
        """Map what ``fd`` holds, which is closed with the entry, if it was written under that name: a file that was
        copied or renamed is not taken for another. Raises EntryDamaged, OSError, ValueError, LookupError, TypeError."""
        size = os.fstat(fd).st_size
        if size < _HEADER.size:
            raise EntryDamaged(f"{size} bytes")
        magic, length, whole, table, samples = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
        if magic != MAGIC:
            raise EntryDamaged("no header")
        if whole != size or length > min(MOST_TABLE, size - _HEADER.size):
            raise EntryDamaged(f"{size} bytes of {whole}")
        text = _read(fd, _HEADER.size, length)
        if hashlib.sha256(text).digest() != table:
            raise EntryDamaged("its table was changed")
        if _samples(fd, size) != samples:
            raise EntryDamaged("its content was changed")
        told = json.loads(text)
        if told["name"] != name:
            raise EntryDamaged(f"it is {told['name']}")
        self.content = told["content"]
        self.pieces: list[tuple[int, int]] = [(at, size) for at, size in told["pieces"]]
        self.memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        self.fd = fd
        weakref.finalize(self, os.close, fd)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.memory)


def entry_size(name: str, content: Any, sizes: Sequence[int]) -> int:
    """Bytes of the entry with pieces of these sizes."""
    return _plan(name, content, sizes)[2]


def write_entry(fd: int, name: str, content: Any, sizes: Sequence[int], pieces: Iterable[memoryview]) -> None:
    """Make an empty file an entry: ``content`` is anything that JSON holds, ``pieces`` are asked for one by one.

    Raises OSError, before any piece was asked for if there is no room.
    """
    text, places, size = _plan(name, content, sizes)
    os.posix_fallocate(fd, 0, size)
    _write(fd, memoryview(text), _HEADER.size)
    for (at, length), piece in zip(places, pieces, strict=True):
        assert piece.nbytes == length, "a piece of another size"
        _write(fd, piece, at)
    header = _HEADER.pack(MAGIC, len(text), size, hashlib.sha256(text).digest(), _samples(fd, size))
    os.fsync(fd)  # what the header vouches for is there before it
    _write(fd, memoryview(header), 0)
    os.fsync(fd)


def _plan(name: str, content: Any, sizes: Sequence[int]) -> tuple[bytes, list[tuple[int, int]], int]:
    """The table, each piece's place, and the size of it all. Places are in the table, which is in front of them."""
    head = {"name": name, "content": content}
    room = len(json.dumps(head)) + 48 * len(sizes) + 64  # at least the table, which is padded to that
    at = _HEADER.size + room
    places = []
    for size in sizes:
        step = PAGE if size >= PAGE else LINE
        at = -(-at // step) * step
        places.append((at, size))
        at += size
    text = json.dumps({**head, "pieces": places}).encode()
    assert len(text) <= room, "a table larger than its room"
    return text.ljust(room), places, at


def _samples(fd: int, size: int) -> bytes:
    """Digest of samples of everything behind the header."""
    digest = hashlib.sha256()
    last = max(_HEADER.size, size - CHECKED_BYTES)
    for i in range(CHECKED_PARTS):
        at = _HEADER.size + (last - _HEADER.size) * i // (CHECKED_PARTS - 1)
        digest.update(os.pread(fd, CHECKED_BYTES, at))
        if at == last:
            break
    return digest.digest()


def _read(fd: int, at: int, length: int) -> bytes:
    found = bytearray()
    while len(found) < length and (more := os.pread(fd, length - len(found), at + len(found))):
        found += more
    return bytes(found)


def _write(fd: int, content: memoryview, at: int) -> None:
    content = content.cast("B")
    while content:
        written = os.pwrite(fd, content, at)
        content, at = content[written:], at + written
