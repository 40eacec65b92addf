"""Hellos of the side socket that no kvstore sends: a client takes one, or refuses it by name, and keeps nothing."""

from __future__ import annotations

import gc
import os
import random
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from quire_proto.client.attach_socket import MAX_HELLO_BYTES, SideSocket
from quire_proto.wire.codec import encode
from quire_proto.wire.envelope import VERSION
from quire_proto.wire.errors import KvstoreUnreachable, QuireError, RemoteError

HELLO = encode({"version": VERSION, "boot": b"b" * 16, "token": b"t" * 16})
HELLOS = 300


def damaged(random: random.Random) -> bytes:
    """A hello as it should be, or with bytes changed, cut off, added, or of another kind altogether."""
    hello = bytearray(HELLO)
    kind = random.randrange(6)
    if kind == 0:
        del hello[random.randrange(1, len(hello)) :]
    elif kind == 1:
        hello += random.randbytes(random.choice([1, 100, MAX_HELLO_BYTES]))
    elif kind == 2:
        return random.randbytes(random.randint(1, 200))
    elif kind == 3:
        return random.choice([b"\x91" * 2000, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", bytes(1), b"\x80"])
    elif kind == 4:
        for _ in range(random.randint(1, 3)):
            hello[random.randrange(len(hello))] = random.randrange(256)
    return bytes(hello)


def test_damaged_hellos_with_descriptors(tmp_path: Path) -> None:
    """Seeded: a side socket or a RemoteError, at once; afterwards no descriptor is open that was not before."""
    chosen = random.Random(20_26)
    ends: Counter[str] = Counter()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "attach.sock"))
        listener.listen()

        def serve() -> None:
            for _ in range(HELLOS):
                connection, _ = listener.accept()
                with connection:
                    socket.send_fds(connection, [damaged(chosen)], [0] * chosen.randrange(7))

        server = threading.Thread(target=serve)
        server.start()
        gc.collect()  # or what earlier tests left would be closed meanwhile
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(HELLOS):
            try:
                side = SideSocket(tmp_path, 5.0)
            except RemoteError as error:
                ends[error.code] += 1
            else:
                assert (len(side.boot), len(side.token)) == (16, 16)
                side.close()
                ends["taken"] += 1
        server.join()
        assert len(os.listdir("/proc/self/fd")) == before
    assert {"taken", "BAD_FRAME", "BAD_FIELD"} <= set(ends), ends


@pytest.mark.parametrize("says", [None, b""])
def test_no_hello(tmp_path: Path, says: bytes | None) -> None:
    """Something that accepts and says nothing, or an empty packet, is given up after the time that was set."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "attach.sock"))
        listener.listen()
        listener.settimeout(0.5)

        def serve() -> None:
            kept = []
            try:
                while True:
                    kept.append(listener.accept()[0])
                    if says is not None:
                        kept[-1].send(says)
            except TimeoutError:
                for connection in kept:
                    connection.close()

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(KvstoreUnreachable, match=r"attach\.sock"):
            SideSocket(tmp_path, 0.2)
        server.join()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, None])
def test_something_else_at_its_place(tmp_path: Path, kind: socket.SocketKind | None) -> None:
    """A socket of another kind, or a file."""
    place = tmp_path / "attach.sock"
    with socket.socket(socket.AF_UNIX, kind or socket.SOCK_STREAM) as other:
        if kind is None:
            place.touch()
        else:
            other.bind(str(place))
        with pytest.raises(QuireError, match=r"attach\.sock"):
            SideSocket(tmp_path, 0.05)
