"""The size of a pool that is asked for in blocks, in GiB or as a share of what is free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from quire_kvstore.host import host_space
from quire_kvstore.host.arena import ROSTER_FILE, ArenaError, Roster, is_roster
from quire_kvstore.host.pool_size import PoolSize, pool_size
from quire_proto.memory import cuda_driver
from quire_proto.memory.cuda_device import Device
from quire_services.config.settings import KvstoreSettings
from tests.support.kvstore import Kvstore

MIB = 1 << 20


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    roster = Roster(tmp_path)
    yield roster
    roster.close()


@pytest.fixture
def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Plants how many MiB are free: of memory, of the container's limit, of /dev/shm."""
    for name in ("MEMINFO", "CGROUP_MAX", "CGROUP_CURRENT", "CGROUP_STAT"):
        monkeypatch.setattr(host_space, name, tmp_path / name)

    def plant(memory: int, shm: int = 1 << 20, limit: int = 0, used: int = 0, cached: int = 0) -> None:
        (tmp_path / "MEMINFO").write_text(f"MemAvailable: {memory * 1024} kB\nSwapFree: {1 << 30} kB\n")
        (tmp_path / "CGROUP_MAX").write_text(f"{limit * MIB}\n" if limit else "max\n")
        (tmp_path / "CGROUP_CURRENT").write_text(f"{used * MIB}\n")
        (tmp_path / "CGROUP_STAT").write_text(f"anon 5\ninactive_file {cached * MIB}\n")
        space = SimpleNamespace(f_bavail=shm * 256, f_frsize=4096, f_blocks=shm * 256)
        monkeypatch.setattr(host_space.os, "statvfs", lambda _: space)

    return plant


def test_blocks_and_gib_are_exact(roster: Roster) -> None:
    """Blocks are taken as they are; of GiB as many whole blocks as fit, and the reason names the setting."""
    assert pool_size(KvstoreSettings(blocks=7), MIB, None, roster) == PoolSize(7, "blocks = 7")
    assert pool_size(KvstoreSettings(kv_gib=0.5), 3 * MIB, None, roster) == PoolSize(170, "kv_gib = 0.5")


@pytest.mark.parametrize(
    ("planted", "what", "mib"),
    [
        ({"memory": 800}, "bytes of available memory", 800),
        ({"memory": 800, "shm": 100}, "bytes free in /dev/shm", 100),
        ({"memory": 800, "limit": 300, "used": 250, "cached": 150}, "bytes left to this container", 200),
    ],
)
def test_a_share_is_of_the_least_that_is_free(
    roster: Roster, free: Callable[..., None], planted: dict[str, int], what: str, mib: int
) -> None:
    """Memory without swap, /dev/shm, and the container's limit without its cached files; the reason says which."""
    free(**planted)
    size = pool_size(KvstoreSettings(kv_fraction=0.5), MIB, None, roster)
    assert size == PoolSize(mib // 2, f"kv_fraction = 0.5 of {mib * MIB:,} {what}")


def test_a_crash_keeps_what_was_measured_and_an_orderly_end_forgets_it(
    tmp_path: Path, free: Callable[..., None]
) -> None:
    """The next life after a kill has the pool that its engines were started beside; another share is measured anew."""
    half = KvstoreSettings(kv_fraction=0.5)
    free(memory=1000)
    first = Roster(tmp_path)
    size = pool_size(half, MIB, None, first)
    os.close(first._fd)  # what the kernel does with a killed process: the lock goes, the files stay
    free(memory=100)
    assert is_roster(tmp_path / ROSTER_FILE)
    second = Roster(tmp_path)
    assert pool_size(half, MIB, None, second) == size == PoolSize(500, size.reason)
    assert pool_size(KvstoreSettings(kv_fraction=0.25), MIB, None, second).blocks == 25
    second.close()
    third = Roster(tmp_path)
    assert pool_size(half, MIB, None, third).blocks == 50
    third.close()


def test_no_block_and_too_many_are_refused(roster: Roster) -> None:
    """The message has the setting, the bytes that it comes to, and what a block takes."""
    with pytest.raises(ArenaError, match=r"kv_gib = 0.0001: 107,374 bytes hold no block, one has 1,048,576"):
        pool_size(KvstoreSettings(kv_gib=0.0001), MIB, None, roster)
    with pytest.raises(ArenaError, match=r"kv_gib = 4096: .* blocks are more than 2,147,483,647"):
        pool_size(KvstoreSettings(kv_gib=4096), 1024, None, roster)


def test_on_a_gpu_the_driver_says_what_is_free(roster: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a context that is made for the question and given back; a driver that refuses is a reason to say GiB."""
    calls: list[str] = []
    answers = {"cuDeviceGet": 0, "cuDevicePrimaryCtxRetain": 1, "cuMemGetInfo": (64 * MIB, 80 * MIB)}
    monkeypatch.setattr(cuda_driver, "call", lambda name, *_: calls.append(name) or answers.get(name))
    device = Device(0, "GPU-1", 80 * MIB)
    size = pool_size(KvstoreSettings(kv_fraction=0.5), MIB, device, roster)
    assert size == PoolSize(32, f"kv_fraction = 0.5 of {64 * MIB:,} bytes free on GPU-1")
    assert calls.index("cuMemGetInfo") < calls.index("cuDevicePrimaryCtxRelease")

    def refuse(name: str, *_: object) -> None:
        raise cuda_driver.CudaError(name, "CUDA_ERROR_NO_DEVICE")

    monkeypatch.setattr(cuda_driver, "call", refuse)
    with pytest.raises(ArenaError, match="choose --kv-gib instead"):
        pool_size(KvstoreSettings(kv_fraction=0.25), MIB, device, roster)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, free_mib: int) -> Device:
    """A GPU of 80 MiB, of which so many are free."""
    answers = {"cuDeviceGet": 0, "cuDevicePrimaryCtxRetain": 1, "cuMemGetInfo": (free_mib * MIB, 80 * MIB)}
    monkeypatch.setattr(cuda_driver, "call", lambda name, *_: answers.get(name))
    return Device(0, "GPU-1", 80 * MIB)


def test_on_a_gpu_a_share_is_of_what_engines_leave(roster: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are not there yet when it is measured; in host memory they are not counted, nor beside a size in blocks."""
    device, needed = on_a_gpu(monkeypatch, 60), 20 * MIB
    size = pool_size(KvstoreSettings(kv_fraction=0.5), MIB, device, roster, needed)
    assert size.blocks == 20
    assert size.reason == f"kv_fraction = 0.5 of {60 * MIB:,} bytes free on GPU-1 less {needed:,} for engines"
    assert pool_size(KvstoreSettings(blocks=50), MIB, device, roster, needed).blocks == 50


def test_where_no_size_is_asked_for_a_gpu_is_filled(
    roster: Roster, free: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what engines need and a margin; a host is not."""
    device = on_a_gpu(monkeypatch, 60)
    assert pool_size(KvstoreSettings(), MIB, device, roster, 20 * MIB).blocks == 38
    free(memory=800)
    assert pool_size(KvstoreSettings(), MIB, None, roster, 20 * MIB) == PoolSize(4096, "blocks = 4096")


def test_a_gpu_that_engines_fill_has_no_pool(roster: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has both numbers and what to change."""
    device = on_a_gpu(monkeypatch, 60)
    with pytest.raises(ArenaError, match=r"62,914,560 bytes .* less 73,400,320 .*fewer engines.*--max-batch-tokens"):
        pool_size(KvstoreSettings(), MIB, device, roster, 70 * MIB)


@pytest.mark.process
def test_a_kvstore_says_how_large_its_pool_is_and_why(run_dir: Path) -> None:
    """In its log; after a kill it has the same pool, and the system's own numbers were asked once."""
    kvstore = Kvstore(run_dir, "--kv-fraction=0.00001", blocks=0).start()
    blocks = kvstore.stats().num_blocks
    kvstore.kill()
    kvstore.start()
    one, two = kvstore.events("kvstore_started")
    assert one["blocks"] == two["blocks"] == blocks == kvstore.stats().num_blocks
    assert one["sized_by"] == two["sized_by"]
    assert one["sized_by"].startswith("kv_fraction = 1e-05 of ")
    kvstore.stop()
