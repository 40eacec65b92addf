"""Mapping the arena: writable, shared between processes, and refused where it is not what the handshake says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_proto.client.client import KVClient
from quire_proto.memory.mapping import Mapping
from quire_proto.wire.errors import MapError
from quire_proto.wire.handles import CudaIpcHandle, CudaVmmFdHandle, Handle, ShmHandle
from tests.support.kvstore import Kvstore

NAME = f"quire-test-{os.getpid()}"
OTHER_PROCESS = """
import sys
from quire_proto.client.client import KVClient
with KVClient(sys.argv[1]) as client:
    view = client.map()
    assert bytes(view[:5]) == b"first", bytes(view[:5])
    view[5:11] = b"second"
"""


@pytest.fixture
def segment() -> Iterator[Path]:
    """A shared memory segment of two pages."""
    path = Path("/dev/shm", NAME)
    path.write_bytes(bytes(8192))
    path.chmod(0o600)
    yield path
    path.unlink()


@pytest.mark.process
def test_two_processes_see_the_same_bytes(shared_kvstore: Kvstore) -> None:
    """What one process writes through its view, another reads through its own, and the reverse."""
    with KVClient(shared_kvstore.run_dir) as client:
        view = client.map()
        assert (view.readonly, view.format, view.contiguous) == (False, "B", True)
        view[:5] = b"first"
        subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(shared_kvstore.run_dir)], check=True, timeout=30)
        assert bytes(view[:11]) == b"firstsecond"
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_a_view_that_is_still_used_outlives_the_close(segment: Path) -> None:
    """Memory under a living array is never pulled away: close says so, and the array goes on working."""
    mapping = Mapping(ShmHandle(NAME, 8192), 8192)
    used = memoryview(mapping.view)[:4]

    assert not mapping.close()
    used[:] = b"live"
    assert segment.read_bytes()[:4] == b"live"


def test_an_offset_is_respected(segment: Path) -> None:
    """The arena may begin inside the segment."""
    mapping = Mapping(ShmHandle(NAME, 4096, offset=64), 4096)
    mapping.view[:2] = b"ab"

    assert segment.read_bytes()[64:66] == b"ab"
    assert mapping.close()


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (CudaIpcHandle(b"h" * 64, 8192, "GPU-1", 13, 13), "cuda-ipc"),
        (CudaVmmFdHandle(8192, "GPU-1", 13, 13), "cuda-vmm-fd"),
        (ShmHandle(NAME, 4096), "needs 8192"),
        (ShmHandle(NAME, 8192, offset=4096), "8192 bytes; the handle names 12288"),
        (ShmHandle("quire-is-not-there", 8192), "No such file"),
        (ShmHandle("../etc/passwd", 8192), "no name"),
        (ShmHandle("", 8192), "no name"),
    ],
)
def test_what_cannot_be_mapped_is_refused_with_the_reason(segment: Path, handle: Handle, reason: str) -> None:
    """Device arenas, missing or short segments and names that are paths are errors that say so."""
    with pytest.raises(MapError, match=reason):
        Mapping(handle, 8192)


def test_a_link_in_place_of_the_segment_is_refused(segment: Path) -> None:
    """No one can redirect the mapping to another file."""
    link = segment.with_name(f"{NAME}-link")
    link.symlink_to(segment)
    try:
        with pytest.raises(MapError, match="symbolic links"):
            Mapping(ShmHandle(link.name, 8192), 8192)
    finally:
        link.unlink()


def test_a_forked_child_does_not_inherit_the_arena(segment: Path) -> None:
    """The mapping is marked so that a child cannot write blocks it does not own."""
    mapping = Mapping(ShmHandle(NAME, 8192), 8192)
    smaps = Path("/proc/self/smaps").read_text().split(str(segment))[1]
    flags = next(line for line in smaps.splitlines() if line.startswith("VmFlags"))

    assert " dc" in flags
    assert mapping.close()
