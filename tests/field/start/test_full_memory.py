"""Shared memory that is full: said in one line when a stack starts, and no reason to die later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from quire_kvstore.host import host_space
from quire_kvstore.host.arena import SHM_DIR, ArenaError, Roster, ShmArena, check_capacity
from quire_kvstore.host.reservation import PIECE_BYTES, Reservation
from quire_proto.client.client import KVClient
from quire_services.config.settings import Config
from quire_services.process.screen import Screen
from quire_services.stack import serve
from quire_services.stack.child import Child
from quire_services.stack.rundir import RunDir
from tests.support.kvstore import Kvstore
from tests.support.service import LAYOUT
from tests.support.waits import wait_for

BLOCKS = 100_000
SIZE = LAYOUT.arena_bytes(BLOCKS)


def taken(process: Kvstore) -> int:
    """Bytes of this kvstore's pool that are allocated."""
    named = (process.run_dir / "arena.json").read_text()
    [segment] = [path for path in SHM_DIR.glob("quire-*") if path.name in named]
    return segment.stat().st_blocks * 512


@pytest.mark.process
@pytest.mark.source("shadow/shadow#2266", "wmanley/pulsevideo#13", "dmf-mxl/mxl#300")
def test_the_pool_is_there_before_it_is_written(run_dir: Path) -> None:
    """All of its pages are taken soon after the start, unless that was not wanted."""
    process = Kvstore(run_dir, blocks=BLOCKS).start()
    wait_for(lambda: taken(process) >= SIZE, "pages")
    with closing(KVClient(run_dir, layout=LAYOUT)) as client:
        client.map()[:4] = b"abcd"
    assert process.end(signal.SIGTERM) == 0
    process = Kvstore(run_dir, "--reserve=false", blocks=BLOCKS).start()
    assert taken(process) == 0
    assert process.end(signal.SIGTERM) == 0


@pytest.mark.process
@pytest.mark.source("GlobalArrays/ga#254", "llnl/UnifyFS#72")
def test_what_takes_the_space_first_is_said(run_dir: Path) -> None:
    """A kvstore whose pages are not to be had any more ends with one line that names /dev/shm, and leaves nothing."""
    code = """
import errno, os, sys
from quire_services.daemons import kvstored
real, sys.argv = os.posix_fallocate, sys.argv[:1]
def full(fd, start, length):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.posix_fallocate = full
"""
    process = Kvstore(run_dir, blocks=BLOCKS).start()
    prepared = run_dir / "prepared.json"
    assert process.end(signal.SIGTERM) == 0
    argv = [f"--run-dir={run_dir}", f"--prepared={prepared}", f"--blocks={BLOCKS}"]
    told = subprocess.run(
        [sys.executable, "-c", code + f"sys.exit(kvstored.main({argv!r}))"], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 1
    last = told.stderr.splitlines()[-1]
    assert last.startswith(f"quire kvstore: the pool needs {SIZE:,} more bytes in /dev/shm: No space left")
    assert "Traceback" not in told.stderr


@pytest.mark.source("GlobalArrays/ga#254")
def test_no_pool_is_promised_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/shm is as large as its mount says, whatever memory is behind it: the smaller counts, a container's too."""
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    100 kB\nSwapFree:    20 kB\n")
    (tmp_path / "max").write_text("max\n")
    monkeypatch.setattr(host_space, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_space, "CGROUP_MAX", tmp_path / "max")
    roster = Roster(tmp_path)
    with pytest.raises(ArenaError, match=r"needs 122,881 bytes of memory and 122,880 are available.*--reserve=false"):
        ShmArena(120 * 1024 + 1, roster, reserve=True)
    ShmArena(120 * 1024, roster, reserve=True).close()
    ShmArena(120 * 1024 + 1, roster, reserve=False).close()
    check_capacity(120 * 1024 + 1, reserve=True)
    (tmp_path / "max").write_text("4096\n")
    with pytest.raises(ArenaError, match="4,096 are available"):
        check_capacity(8192, reserve=True)
    roster.close()


@pytest.mark.source("wmanley/pulsevideo#13")
def test_the_pages_of_a_killed_kvstore_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engines still map them for a moment; a first start has nothing to wait for."""
    full = threading.Event()
    full.set()
    real = os.statvfs

    def statvfs(path: Path) -> object:
        found = real(path)
        return SimpleNamespace(f_bavail=0 if full.is_set() else found.f_bavail, f_frsize=4096, f_blocks=1)

    monkeypatch.setattr(host_space.os, "statvfs", statvfs)
    first = Roster(tmp_path)
    with pytest.raises(ArenaError, match="0 free"):
        ShmArena(4096, first)
    first.write("quire-" + "0" * 32)
    os.close(first._fd)  # as when it is killed
    second = Roster(tmp_path)
    timer = threading.Timer(0.1, full.clear)
    timer.start()
    ShmArena(4096, second).close()
    timer.join()
    second.close()


@pytest.mark.source("dmf-mxl/mxl#300")
def test_a_reservation_ends_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop waits for one piece, not for the rest of a large pool."""
    pieces: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def allocate(_fd: int, start: int, _length: int) -> None:
        pieces.append(start)
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    (tmp_path / "pool").touch()
    taking = Reservation(tmp_path / "pool", 1000 * PIECE_BYTES, pytest.fail)
    begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    taking.close()
    assert len(pieces) <= 2


@pytest.mark.source("shadow/shadow#2266")
def test_a_process_that_dies_of_full_memory_is_not_started_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the third SIGBUS, however long apart, the stack ends and its reason names /dev/shm; other ends go on."""
    run_dir = RunDir(tmp_path / "run")
    stack = serve.StackRun(Config(), run_dir, Screen(sys.stdout))
    stack._was_ready = True
    child, other = Child("engine-1", ["true"]), Child("engine-2", ["true"])
    with stack._supervisor:
        for _ in range(serve.MAX_STARTS):
            assert not stack.failure
            stack._ended(other, -signal.SIGKILL, 0.1)
            stack._ended(other, 1, 0.1)
            stack._ended(child, -signal.SIGBUS, 0.1)
    assert "engine-1: was killed by SIGBUS" in stack.failure
    assert "df /dev/shm" in stack.failure
    assert capsys.readouterr().out.count("starting it again") == 3 * serve.MAX_STARTS - 1
    run_dir.close()
