"""Processes that the kvstore can watch but not kill, as those of another pid namespace."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from quire_kvstore.host.attach_socket import Connection, PeerGone, pidfd_by_pid
from quire_kvstore.sessions.session import Peer
from tests.support.children import holding_client
from tests.support.kvstore import PROGRAM, Kvstore
from tests.support.raw_client import Client
from tests.support.waits import DEADLINE_S, wait_for

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def may_unshare() -> bool:
    """Whether this user may make a pid namespace."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def apart(run_dir: Path) -> Iterator[Kvstore]:
    """A kvstore in a pid namespace of its own, below this one."""
    if not may_unshare():
        pytest.skip("no right to make a pid namespace")
    process = Kvstore(run_dir, "--lease-ms=400", "--fence-grace-ms=100", program=(*UNSHARE, *PROGRAM)).start()
    yield process
    inner = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text().split()
    for pid in inner:
        os.kill(int(pid), signal.SIGTERM)
    process.end(0)


@pytest.mark.process
@pytest.mark.source("containers/crun#1644")
def test_a_silent_process_of_another_pid_namespace_stays_in_quarantine(apart: Kvstore) -> None:
    """It is fenced and cannot be killed: the kvstore says so, serves on, and has the blocks back when it ends."""
    with holding_client(apart.run_dir) as holder, ExitStack() as stack:
        reader = Client(apart.run_dir)
        stack.callback(reader.close)
        holder.send_signal(signal.SIGSTOP)

        stats = wait_for(lambda: (s := reader.stats()).counters["not_killed"] and s, "it was tried")

        assert (stats.counters["killed"], stats.blocks["quarantined"]) == (0, 10)
        (event,) = [event for event in apart.events() if event["event"] == "quarantine_stays"]
        assert (event["reason"], event["error"]) == ("may_not_kill", os.strerror(errno.EINVAL))
        holder.kill()
        holder.wait(DEADLINE_S)
        wait_for(lambda: reader.stats().blocks["free"] == 64, "blocks back")


@pytest.mark.source("containers/crun#1644")
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ESRCH])
def test_a_refused_signal_ends_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kernel says, it is told and not raised; a dead process needs no signal."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(signal, "pidfd_send_signal", refused)
    ours, theirs = socket.socketpair()
    connection = Connection(ours, os.pidfd_open(os.getpid()), os.getuid(), Peer(1, b""))
    try:
        assert connection.kill() == ("" if number == errno.ESRCH else os.strerror(number))
    finally:
        connection.close()
        theirs.close()


@pytest.mark.source("containers/crun#1644")
def test_a_process_without_a_pid_here_is_refused_by_name_of_the_reason() -> None:
    """Where the kernel gives no pidfd of a peer, one of another pid namespace cannot be told from any other."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(PeerGone, match="another pid namespace"):
        pidfd_by_pid(ours, 0)
