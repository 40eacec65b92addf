"""The life of a device arena over recorded driver calls: attach, map, exporter death, re-attach."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from quire_proto.client.client import KVClient
from quire_proto.memory.cuda_mapping import DeviceMemory
from quire_proto.messages import Allocate, Step
from quire_proto.wire.codec import decode
from quire_proto.wire.errors import DeviceFault, LayoutMismatch, MapError
from tests.kvstore.host.cuda_arena.recorder import BASE_BELOW, Recorder
from tests.kvstore.host.cuda_arena.stack import SIZE, RecordedKvstore
from tests.support.children import python_child
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
UUID = "GPU-00000000-0000-0000-0000-000000000000"
KINDS = pytest.mark.parametrize("arena", ["cuda-ipc", "cuda-vmm-fd"])

STUBBORN = """
import sys, time
from tests.kvstore.host.cuda_arena.recorder import Recorder
sys.modules["cuda.bindings.driver"] = Recorder()
from quire_proto.client.client import KVClient
client = KVClient(sys.argv[1])
print("mapped", flush=True)
time.sleep(600)
"""


def stubborn_client(kvstore: RecordedKvstore) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that maps the arena and never lets go."""
    return python_child(STUBBORN, str(kvstore.run_dir), says="mapped")


def _inodes(pid: int) -> set[int]:
    """Files a process has open."""
    return {path.stat().st_ino for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists() or path.is_symlink()}


@KINDS
def test_a_session_maps_the_arena_and_releases_it_on_detach(
    kvstore: RecordedKvstore, recorder: Recorder, arena: str
) -> None:
    """Attach gives device, pointer and size; detach unmaps, and the roster forgets the process."""
    kvstore.start_with(arena)
    with KVClient(kvstore.run_dir, gpu_uuid=UUID) as client:
        memory = client.map()
        assert isinstance(memory, DeviceMemory)
        assert (memory.device, memory.bytes) == (0, SIZE)
        assert memory.pointer % 256 == 0
        assert memory.__cuda_array_interface__["data"] == (memory.pointer, False)
        assert memory.__cuda_array_interface__["shape"] == (SIZE,)
        assert kvstore.roster() == [os.getpid()]
        assert (recorder.held["pointer"], recorder.held["context"]) == (1, 1)
    wait_for(lambda: not kvstore.roster(), "the roster is empty", 30)


def test_the_descriptor_comes_over_the_side_socket(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """What the client imports is the very memory that the kvstore holds, and no descriptor of it stays open here."""
    kvstore.start_with("cuda-vmm-fd")
    with KVClient(kvstore.run_dir):
        assert recorder.imported in _inodes(kvstore.process.pid)
        assert recorder.imported not in _inodes(os.getpid())


@KINDS
def test_a_hello_carries_one_descriptor_or_none(kvstore: RecordedKvstore, arena: str) -> None:
    """As ancillary data of the same packet, for the kind that needs it."""
    kvstore.start_with(arena)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(10)
        client.connect(str(kvstore.run_dir / "attach.sock"))
        packet, ancillary, flags, _ = client.recvmsg(4096, socket.CMSG_SPACE(64))
    assert set(decode(packet, 4096)) == {"version", "boot", "token"}
    assert not flags & socket.MSG_CTRUNC
    assert [(level, kind, len(data)) for level, kind, data in ancillary] == (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, 4)] if arena == "cuda-vmm-fd" else []
    )
    for _, _, data in ancillary:
        os.close(int.from_bytes(data, sys.byteorder))


def test_an_ipc_handle_opens_the_drivers_allocation_and_the_offset_leads_into_it(
    kvstore: RecordedKvstore, recorder: Recorder
) -> None:
    """The pointer is what the driver gave plus the exporter's offset from the start of its allocation."""
    kvstore.start_with("cuda-ipc")
    with KVClient(kvstore.run_dir) as client:
        memory = client.map()
        assert isinstance(memory, DeviceMemory)
        assert memory.pointer == 0x6000_0000_0000 + BASE_BELOW


@KINDS
def test_a_process_opens_an_arena_once(kvstore: RecordedKvstore, recorder: Recorder, arena: str) -> None:
    """Two sessions share one mapping, which goes with the second."""
    kvstore.start_with(arena)
    first, second = KVClient(kvstore.run_dir), KVClient(kvstore.run_dir)
    assert first.map() == second.map()
    first.close()
    assert recorder.held["pointer"] == 1
    second.close()
    assert recorder.calls.count("cuIpcOpenMemHandle") + recorder.calls.count("cuMemMap") == 1


@KINDS
def test_the_store_thread_calls_no_driver(kvstore: RecordedKvstore, recorder: Recorder, arena: str) -> None:
    """After the start the kvstore's recorder stays silent through attach, work, a lost client and detach."""
    kvstore.start_with(arena)
    before = kvstore.calls.read_text()
    with KVClient(kvstore.run_dir) as client:
        client.step(Step(allocates=(Allocate(1, "a", 8),)))
        client.stats()
    assert kvstore.calls.read_text() == before != ""


@KINDS
def test_after_the_exporters_death_a_client_unmaps_and_attaches_anew(
    kvstore: RecordedKvstore, recorder: Recorder, arena: str
) -> None:
    """The loss is noticed, everything is released, and the next kvstore waits for us instead of killing us."""
    kvstore.start_with(arena)
    client = KVClient(kvstore.run_dir)
    boot, memory = client.boot, recorder.imported
    kvstore.kill()
    assert client.lost.wait(10)
    made = "cuMemAlloc" if arena == "cuda-ipc" else "cuMemCreate"
    kvstore.start_with(arena, wait=False)
    wait_for(lambda: kvstore.events("waiting_for_old_mappers"), "the new kvstore waits", 30)
    assert kvstore.calls.read_text().count(made) == 1
    client.close()
    assert +recorder.held == {}

    with KVClient(kvstore.run_dir, timeout=20) as again:
        assert again.boot != boot
        assert arena == "cuda-ipc" or recorder.imported != memory
        assert kvstore.events("old_mapper_killed") == []
        assert kvstore.roster() == [os.getpid()]
    assert kvstore.calls.read_text().count(made) == 2


@KINDS
def test_an_old_mapper_that_does_not_let_go_is_killed_before_memory_is_made(
    kvstore: RecordedKvstore, recorder: Recorder, arena: str
) -> None:
    """A process that keeps the old mapping is waited for, then killed; only then is the new arena allocated."""
    kvstore.start_with(arena)
    with stubborn_client(kvstore) as stubborn:
        kvstore.kill()
        made = "cuMemAlloc" if arena == "cuda-ipc" else "cuMemCreate"
        before = kvstore.calls.read_text().count(made)
        kvstore.start_with(arena, grace_ms=1000, wait=False)
        wait_for(lambda: kvstore.events("waiting_for_old_mappers"), "the new kvstore waits", 30)
        assert stubborn.poll() is None
        assert kvstore.calls.read_text().count(made) == before
        assert stubborn.wait(20) == -signal.SIGKILL
    with KVClient(kvstore.run_dir, timeout=20) as client:
        assert isinstance(client.map(), DeviceMemory)
    assert kvstore.calls.read_text().count(made) == before + 1


def test_a_process_that_ends_while_it_is_waited_for_ends_the_wait(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """The wait is for the process, not for the time."""
    kvstore.start_with("cuda-ipc")
    with stubborn_client(kvstore) as stubborn:
        kvstore.kill()
        began = time.monotonic()
        timer = threading.Timer(0.5, stubborn.terminate)
        timer.start()
        kvstore.start_with("cuda-ipc", grace_ms=600_000)
        assert time.monotonic() - began < 60
        assert stubborn.wait(20) == -signal.SIGTERM
        timer.join()


@KINDS
def test_another_gpu_is_refused_at_attach_and_both_are_named(
    kvstore: RecordedKvstore, recorder: Recorder, arena: str
) -> None:
    """An engine on another GPU or MIG instance never gets as far as mapping."""
    kvstore.start_with(arena, uuid=0xAB)
    recorder.name = b"NVIDIA H200 MIG 1g.18gb\0"
    pool, engine = UUID.replace("00", "ab"), UUID.replace("GPU", "MIG")
    with pytest.raises(LayoutMismatch, match=f"{pool}.*{engine}.*CUDA_VISIBLE_DEVICES"):
        KVClient(kvstore.run_dir, gpu_uuid=engine)
    # And one that does not say where it is finds out when it maps.
    with pytest.raises(MapError, match=f"{pool}.*{engine}.*same instance"):
        KVClient(kvstore.run_dir)


def test_a_poisoned_context_is_told_apart_from_all_other_losses(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """If unmapping fails with a sticky error, closing says that only a new process helps; the session still ends."""
    kvstore.start_with("cuda-vmm-fd")
    client = KVClient(kvstore.run_dir)
    recorder.fail["cuMemUnmap"] = "ILLEGAL_ADDRESS"
    with pytest.raises(DeviceFault, match="ILLEGAL_ADDRESS"):
        client.close()
    wait_for(lambda: not kvstore.roster(), "the side socket is closed", 30)
    recorder.held.clear()
