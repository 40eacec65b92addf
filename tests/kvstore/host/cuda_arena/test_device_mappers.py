"""The roster of mappers, with ordinary processes: which are waited for, killed, left alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_kvstore.host.arena import ArenaError
from quire_kvstore.host.attach_socket import Listener, start_ticks
from quire_kvstore.host.device_mappers import Mappers

pytestmark = pytest.mark.process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """An ordinary process."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """The side socket of a kvstore that starts."""
    listener = Listener(tmp_path)
    yield listener
    listener.close()


def _left_behind(run_dir: Path, *pids: int, **other: object) -> Mappers:
    """What a start finds after a kvstore with these mappers was killed; ``other`` changes the file."""
    before = Mappers(run_dir)
    for pid in pids:
        before.add(pid)
    path = run_dir / "mappers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **other}))
    return Mappers(run_dir)


def test_the_roster_is_private_and_goes_with_its_last_mapper(tmp_path: Path) -> None:
    """One entry a process, however many connections; the file is removed at the end if none is left."""
    mappers = Mappers(tmp_path)
    entries = [mappers.add(os.getpid()), mappers.add(os.getpid())]
    path = tmp_path / "mappers.json"
    assert json.loads(path.read_text())["mappers"] == [[os.getpid(), start_ticks(os.getpid())]]
    assert path.stat().st_mode & 0o777 == 0o600
    for entry in entries:
        assert entry is not None
        mappers.remove(entry)
    mappers.close()
    assert list(tmp_path.iterdir()) == []


def test_a_roster_with_a_live_mapper_stays_for_the_next_start(tmp_path: Path) -> None:
    """A kvstore that stops under running engines leaves their names."""
    mappers = Mappers(tmp_path)
    mappers.add(os.getpid())
    mappers.close()
    assert Mappers(tmp_path).old == [(os.getpid(), start_ticks(os.getpid()))]


def test_a_silent_mapper_is_killed_after_the_wait(
    tmp_path: Path, listener: Listener, sleeper: subprocess.Popen[bytes]
) -> None:
    """Nothing but its death says that it writes no more."""
    assert _left_behind(tmp_path, sleeper.pid).settle(listener, 100) == []
    assert sleeper.wait(10) == -signal.SIGKILL
    assert Mappers(tmp_path).old == []


def test_a_mapper_that_comes_back_is_left_alone(tmp_path: Path, listener: Listener) -> None:
    """This process connects while it is waited for: that says it has unmapped; its connection is kept."""
    mappers = _left_behind(tmp_path, os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        timer = threading.Timer(0.2, client.connect, [str(tmp_path / "attach.sock")])
        timer.start()
        ((connection, pidfd, pid, _),) = mappers.settle(listener, 600_000)
        timer.join()
        assert pid == os.getpid()
        connection.close()
        os.close(pidfd)


@pytest.mark.parametrize("other", [{"machine": "another boot"}, {"pid_namespace": 1}, {"mappers": "?"}, {"more": 1}])
def test_pids_of_elsewhere_name_nobody(
    tmp_path: Path, listener: Listener, sleeper: subprocess.Popen[bytes], other: dict[str, object]
) -> None:
    """A roster of an earlier boot of the machine, of another namespace or of another form harms no process."""
    mappers = _left_behind(tmp_path, sleeper.pid, **other)
    assert (mappers.old, mappers.settle(listener, 0)) == ([], [])
    assert sleeper.poll() is None


def test_a_process_that_took_over_a_pid_is_not_hit(
    tmp_path: Path, listener: Listener, sleeper: subprocess.Popen[bytes]
) -> None:
    """The start time tells it from the mapper of that pid."""
    mappers = _left_behind(tmp_path, sleeper.pid, mappers=[[sleeper.pid, start_ticks(sleeper.pid) - 1]])
    assert (mappers.old, mappers.settle(listener, 0)) == ([], [])
    assert sleeper.poll() is None


def test_a_process_we_may_not_kill_stops_the_start(
    tmp_path: Path, listener: Listener, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's mapper: the message names it and what to do."""

    def refused(*_: object) -> None:
        raise PermissionError

    mappers = _left_behind(tmp_path, sleeper.pid)
    monkeypatch.setattr(signal, "pidfd_send_signal", refused)
    with pytest.raises(ArenaError, match=f"process {sleeper.pid} .* another user's: end it first"):
        mappers.settle(listener, 0)
    assert Mappers(tmp_path).old == [(sleeper.pid, start_ticks(sleeper.pid))]
