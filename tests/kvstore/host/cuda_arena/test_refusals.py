"""Every refusal of a device arena says what failed and what would help; none leaves anything behind."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_kvstore.host.arena import Arena, ArenaError, Roster
from quire_kvstore.host.arena_choice import choose, make
from quire_kvstore.host.cuda_arena import CudaIpcArena, CudaVmmFdArena, check_fits
from quire_proto.memory import cuda_device
from quire_proto.memory.cuda_device import Device
from quire_proto.memory.cuda_mapping import DeviceMapping
from quire_proto.memory.mapping import open_arena
from quire_proto.wire.errors import MapError
from quire_proto.wire.handles import CudaIpcHandle, CudaVmmFdHandle
from tests.kvstore.host.cuda_arena.recorder import GRANULE, Recorder
from tests.kvstore.host.cuda_arena.stack import RecordedKvstore

UUID = "GPU-00000000-0000-0000-0000-000000000000"
DEVICE = Device(0, UUID, 1 << 30)
SIZE = 5 * GRANULE // 2
IPC = CudaIpcHandle(b"%-32d%-32d" % (os.getppid(), 1), SIZE, UUID, 13000, 13050)
VMM = CudaVmmFdHandle(SIZE, UUID, 13000, 13050)


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    """A locked roster, as every arena is given."""
    roster = Roster(tmp_path)
    yield roster
    roster.close()


NOTHING = [
    ({"cuInit": "NO_LIBRARY"}, "no CUDA driver.*install NVIDIA's driver"),
    ({"bindings": None}, r"cuda-bindings is not installed: pip install 'quire-kv\[gpu\]'"),
    ({"cuInit": "SYSTEM_DRIVER_MISMATCH"}, "SYSTEM_DRIVER_MISMATCH.*check nvidia-smi"),
]
HIDDEN = [
    ({"cuInit": "NO_DEVICE"}, "CUDA_ERROR_NO_DEVICE.*check nvidia-smi"),
    ({"count": 0}, "sees no device.*CUDA_VISIBLE_DEVICES"),
]


def arranged(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, arrange: dict[str, str], control: Path) -> None:
    """A driver that fails like this, on a host whose control device is that path."""
    monkeypatch.setattr(cuda_device, "CONTROL_DEVICE", str(control))
    if "bindings" in arrange:
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    elif "count" in arrange:
        recorder.uuids = []
    else:
        recorder.fail.update(arrange)


@pytest.mark.parametrize(("arrange", "reason"), NOTHING + HIDDEN)
def test_without_a_gpu_auto_takes_host_memory_and_a_device_arena_is_refused(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arrange: dict[str, str], reason: str
) -> None:
    """No bindings, driver or device: ``auto`` falls back, an explicit wish does not."""
    arranged(recorder, monkeypatch, arrange, tmp_path / "absent")
    assert choose("auto")[:2] == ("shm", None)
    for kind in ("cuda-ipc", "cuda-vmm-fd"):
        with pytest.raises(ArenaError, match=reason):
            choose(kind)
    with pytest.raises(MapError, match=reason):
        open_arena(VMM, SIZE, b"boot", -1)


@pytest.mark.parametrize(("arrange", "reason"), NOTHING)
def test_a_gpu_that_this_process_cannot_use_stops_the_start(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arrange: dict[str, str], reason: str
) -> None:
    """Where the driver's device is there, ``auto`` takes no host memory, and says what is missing and what would do."""
    arranged(recorder, monkeypatch, arrange, tmp_path)
    with pytest.raises(ArenaError, match=f"there is a GPU.*{reason}.*kvstore.arena = shm"):
        choose("auto")
    assert choose("shm")[:2] == ("shm", None)


@pytest.mark.parametrize(("arrange", "reason"), HIDDEN)
def test_a_gpu_that_is_hidden_from_this_process_is_none(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arrange: dict[str, str], reason: str
) -> None:
    """CUDA_VISIBLE_DEVICES that names nothing is the user's wish, and ``auto`` takes host memory."""
    arranged(recorder, monkeypatch, arrange, tmp_path)
    chosen = choose("auto")
    assert chosen[:2] == ("shm", None)
    assert re.search(reason, chosen.reason)


@pytest.mark.parametrize("kind", ["auto", "cuda-ipc", "cuda-vmm-fd"])
@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"MPS_ENABLED": 1}, "MPS.*does not prove.*stop the MPS daemon"),
        ({"COMPUTE_MODE": 3}, "one process only: nvidia-smi -c DEFAULT"),
    ],
)
def test_a_gpu_that_cannot_be_shared_stops_both_sides(
    recorder: Recorder, kind: str, attributes: dict[str, int], reason: str
) -> None:
    """Under MPS or in an exclusive mode not even ``auto`` starts, and a client does not map."""
    recorder.attributes = attributes
    with pytest.raises(ArenaError, match=f"{reason}.*kvstore.arena = shm"):
        choose(kind)
    with pytest.raises(MapError, match=reason):
        open_arena(IPC, SIZE, b"boot", -1)


def test_mps_is_found_by_its_pipe_where_the_driver_cannot_say(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An older driver does not know the attribute; the daemon's control pipe tells."""
    recorder.fail["cuDeviceGetAttribute"] = "INVALID_VALUE"
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert choose("auto")[:2] == ("cuda-vmm-fd", DEVICE)
    os.mkfifo(tmp_path / "control")
    assert stat.S_ISFIFO((tmp_path / "control").stat().st_mode)
    with pytest.raises(ArenaError, match="MPS"):
        choose("auto")


def test_auto_takes_the_first_kind_that_works(recorder: Recorder) -> None:
    """Descriptors where they can be exported, else IPC; never by name."""
    assert choose("auto")[:2] == ("cuda-vmm-fd", DEVICE)
    assert choose("cuda-ipc")[:2] == ("cuda-ipc", DEVICE)
    assert choose("shm")[:2] == ("shm", None)
    recorder.fail["cuMemExportToShareableHandle"] = "NOT_SUPPORTED"
    assert choose("auto")[:2] == ("cuda-ipc", DEVICE)


@pytest.mark.parametrize(
    ("kind", "call", "code", "reason"),
    [
        ("cuda-vmm-fd", "cuMemCreate", "OUT_OF_MEMORY", "not as many are free: choose fewer blocks"),
        ("cuda-ipc", "cuMemAlloc", "OUT_OF_MEMORY", "not as many are free: choose fewer blocks"),
        ("cuda-vmm-fd", "cuMemExportToShareableHandle", "NOT_SUPPORTED", "NOT_SUPPORTED: try kvstore.arena = cuda-ipc"),
        ("cuda-vmm-fd", "cuMemGetAllocationGranularity", "INVALID_VALUE", "try kvstore.arena = cuda-ipc"),
        ("cuda-ipc", "cuIpcGetMemHandle", "NOT_SUPPORTED", "NOT_SUPPORTED: try kvstore.arena = cuda-vmm-fd"),
        ("cuda-ipc", "cuMemGetAddressRange", "NOT_SUPPORTED", "try kvstore.arena = cuda-vmm-fd"),
        ("cuda-ipc", "cuDevicePrimaryCtxRetain", "DEVICE_UNAVAILABLE", "DEVICE_UNAVAILABLE"),
    ],
)
def test_memory_that_cannot_be_made_is_an_error_with_a_fix(
    roster: Roster, recorder: Recorder, kind: str, call: str, code: str, reason: str
) -> None:
    """Whatever step fails, the earlier ones are undone."""
    recorder.fail[call] = code
    with pytest.raises(ArenaError, match=reason):
        make(kind, DEVICE, SIZE, roster, reserve=False)


def test_a_pool_larger_than_the_gpu_is_refused_before_any_allocation(recorder: Recorder) -> None:
    """The message names both sizes."""
    for attempt in (check_fits, CudaVmmFdArena, CudaIpcArena):
        with pytest.raises(ArenaError, match=r"1,073,741,825 bytes and GPU-.* has 1,073,741,824: choose fewer"):
            attempt(DEVICE.total + 1, DEVICE)
    assert recorder.calls == []


def test_a_driver_that_wants_a_context_to_make_memory_is_given_one(recorder: Recorder) -> None:
    """Descriptors work there too, and the kvstore keeps no context for them; other drivers are never asked for one."""
    assert choose("auto")[:2] == ("cuda-vmm-fd", DEVICE)
    assert "cuDevicePrimaryCtxRetain" not in recorder.calls
    recorder.strict = True
    assert choose("auto")[:2] == ("cuda-vmm-fd", DEVICE)
    CudaVmmFdArena(SIZE, DEVICE).close()
    assert recorder.held["context"] == 0


@pytest.mark.parametrize(
    ("handle", "fail", "reason"),
    [
        (IPC, {"cuIpcOpenMemHandle": "INVALID_CONTEXT"}, "INVALID_CONTEXT.*pid and ipc namespaces.*13000, 13050"),
        (IPC, {"cuDevicePrimaryCtxRetain": "OUT_OF_MEMORY"}, "OUT_OF_MEMORY"),
        (CudaIpcHandle(b"short", SIZE, UUID, 1, 1), {}, "5 bytes instead of 64"),
        (VMM, {"cuMemImportFromShareableHandle": "NOT_SUPPORTED"}, "NOT_SUPPORTED.*try kvstore.arena = cuda-ipc"),
        (VMM, {"cuMemAddressReserve": "OUT_OF_MEMORY"}, "cuMemAddressReserve"),
        (VMM, {"cuMemMap": "INVALID_VALUE", "cuMemUnmap": "INVALID_VALUE"}, "cuMemMap"),
        (VMM, {"cuMemSetAccess": "INVALID_VALUE"}, "cuMemSetAccess"),
        (CudaVmmFdHandle(SIZE + 1, UUID, 1, 1), {}, "the layout needs"),
    ],
)
def test_what_cannot_be_mapped_is_refused_and_undone(
    recorder: Recorder, handle: CudaIpcHandle | CudaVmmFdHandle, fail: dict[str, str], reason: str
) -> None:
    """A client that fails half-way holds nothing: no pointer, no handle, no context, no registry entry."""
    fd = os.memfd_create("device memory")
    recorder.fail = fail
    try:
        with pytest.raises(MapError, match=reason):
            DeviceMapping(handle, SIZE, b"boot", fd)
    finally:
        os.close(fd)


def test_a_missing_descriptor_is_named(recorder: Recorder) -> None:
    """A kvstore that sent no descriptor gives an error about that, not about the driver."""
    with pytest.raises(MapError, match="no descriptor came"):
        DeviceMapping(VMM, SIZE, b"boot", -1)


@pytest.mark.parametrize("kind", ["cuda-ipc", "cuda-vmm-fd"])
def test_the_exporting_process_maps_its_own_arena(roster: Roster, recorder: Recorder, kind: str) -> None:
    """An IPC handle cannot be opened where it was made: the registry gives the exporter's own pointer."""
    arena: Arena = make(kind, DEVICE, SIZE, roster, reserve=False)
    mapping = open_arena(arena.handle(), SIZE, b"boot", arena.fd)
    assert isinstance(mapping, DeviceMapping)
    assert mapping.view.bytes == SIZE
    assert "cuIpcOpenMemHandle" not in recorder.calls
    assert (mapping.close(), mapping.close()) == (True, True)
    arena.close()
    arena.close()


def test_sizes_are_whole_granules(recorder: Recorder) -> None:
    """What is allocated is rounded up; what the handle names is the arena."""
    arena = CudaVmmFdArena(SIZE, DEVICE)
    assert os.fstat(arena.fd).st_size == 3 * GRANULE
    assert not os.get_inheritable(arena.fd)
    assert arena.handle() == CudaVmmFdHandle(SIZE, UUID, 13000, recorder.CUDA_VERSION)
    arena.close()


@pytest.mark.process
def test_the_command_says_in_one_line_why_it_does_not_start(kvstore: RecordedKvstore) -> None:
    """A refusal is one line on stderr and exit status 1."""
    kvstore.start_with("cuda-ipc", wait=False, cuMemAlloc="OUT_OF_MEMORY")
    assert kvstore.process.wait(30) == 1
    assert "choose fewer blocks" in kvstore.log.read_text().splitlines()[-1]
