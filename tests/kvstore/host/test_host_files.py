"""What the kvstore keeps on disk, and how it identifies processes: arena, roster, root key, pidfd."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_kvstore.host.arena import ROSTER_FILE, SHM_DIR, ArenaError, Roster, ShmArena
from quire_kvstore.host.attach_socket import Listener, PeerGone, pidfd_by_pid
from quire_kvstore.host.root_key import KeyFileError, root_key


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    roster = Roster(tmp_path)
    yield roster
    roster.close()


def test_the_arena_is_a_private_segment_of_the_exact_size(roster: Roster) -> None:
    """Mode 0600, an unguessable name, the size asked for; closing twice removes it once."""
    arena = ShmArena(12345, roster)
    path = SHM_DIR / arena.handle().name.removeprefix("/")

    assert (path.stat().st_size, stat.S_IMODE(path.stat().st_mode)) == (12345, 0o600)
    other = ShmArena(1, roster)
    assert other.handle().name != arena.handle().name
    other.close()
    arena.close()
    arena.close()
    assert not path.exists()


def test_an_arena_larger_than_the_space_is_refused_before_anything_is_made(roster: Roster, tmp_path: Path) -> None:
    """The message says how much there is and what would help; no segment is named."""
    with pytest.raises(ArenaError, match=r"shared memory and /dev/shm has .* free"):
        ShmArena(1 << 50, roster)
    assert (tmp_path / ROSTER_FILE).read_text() == ""


def test_the_next_life_removes_what_the_roster_names(tmp_path: Path) -> None:
    """After a kill the roster still names the segment; opening it again removes the segment."""
    first = Roster(tmp_path)
    arena = ShmArena(4096, first)
    left = SHM_DIR / arena.handle().name.removeprefix("/")
    os.close(first._fd)  # what the kernel does with a killed process: the lock goes, the files stay

    second = Roster(tmp_path)

    assert not left.exists()
    second.close()
    assert not (tmp_path / ROSTER_FILE).exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"shm": 5}', '{"shm": "../../etc/passwd"}', '{"shm": "other"}', "null"]
)
def test_a_damaged_roster_removes_nothing(tmp_path: Path, text: str) -> None:
    """Only names of our own making are unlinked, whatever the file says."""
    foreign = SHM_DIR / "other"
    existed = foreign.exists()
    foreign.touch()
    (tmp_path / ROSTER_FILE).write_text(text)

    Roster(tmp_path).close()

    assert foreign.exists()
    if not existed:
        foreign.unlink()


def test_two_rosters_exclude_each_other(roster: Roster, tmp_path: Path) -> None:
    """The lock, not the file, says that a kvstore lives; and the roster names its segment as JSON."""
    roster.write("quire-" + "0" * 32)
    with pytest.raises(ArenaError, match="another kvstore"):
        Roster(tmp_path)
    assert json.loads((tmp_path / ROSTER_FILE).read_text()) == {"shm": "quire-" + "0" * 32, "pid": os.getpid()}


def test_the_root_key_is_made_once_and_stays(tmp_path: Path) -> None:
    """32 random bytes in a file of mode 0600, the same at the next start."""
    key = root_key(tmp_path)

    assert (len(key), root_key(tmp_path)) == (32, key)
    assert [path.name for path in tmp_path.iterdir()] == ["root.key"]
    assert stat.S_IMODE((tmp_path / "root.key").stat().st_mode) == 0o600
    other = tmp_path / "other"
    other.mkdir()
    assert root_key(other) != key


def test_a_key_file_that_others_may_read_or_of_another_size_is_refused(tmp_path: Path) -> None:
    """The message names the file and the fix."""
    root_key(tmp_path)
    (tmp_path / "root.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        root_key(tmp_path)
    (tmp_path / "root.key").chmod(0o600)
    (tmp_path / "root.key").write_bytes(b"short")
    with pytest.raises(KeyFileError, match="5 bytes"):
        root_key(tmp_path)
    (tmp_path / "root.key").unlink()
    os.mkfifo(tmp_path / "root.key", 0o600)
    with pytest.raises(KeyFileError, match="not a file"):
        root_key(tmp_path)


CONNECT = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); "
    "print('up', flush=True); sys.stdin.read()"
)


def test_a_pidfd_names_the_process_that_connected(tmp_path: Path) -> None:
    """Both ways of taking it give a handle that tells the process's death; a dead one is PeerGone."""
    listener = Listener(tmp_path)
    command = [sys.executable, "-c", CONNECT, str(tmp_path / "attach.sock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        accepted = listener.accept()
        assert accepted is not None
        connection, pidfd, pid, uid = accepted
        assert (pid, uid) == (child.pid, os.getuid())
        by_pid = pidfd_by_pid(connection, pid)
        assert os.readlink(f"/proc/self/fd/{by_pid}") == "anon_inode:[pidfd]"
        child.kill()
        child.wait(20)
        with pytest.raises((PeerGone, ProcessLookupError)):
            pidfd_by_pid(connection, pid)
        for fd in (pidfd, by_pid):
            info = Path(f"/proc/self/fdinfo/{fd}").read_text()
            assert "Pid:\t-1" in info
            os.close(fd)
    connection.close()
    assert listener.accept() is None
    listener.close()
    assert not (tmp_path / "attach.sock").exists()


def test_a_reused_pid_is_not_taken_for_the_peer(tmp_path: Path) -> None:
    """The fallback refuses a pid whose connection has ended: the pid may be another process's by now."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.close()
    with pytest.raises(PeerGone, match="hung up"):
        pidfd_by_pid(ours, os.getpid())
    ours.close()
