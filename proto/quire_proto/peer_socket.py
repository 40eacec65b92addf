"""What a connected AF_UNIX socket says of its other end: whose it is, and whether it is still there."""

from __future__ import annotations

import os
import select
import socket
import struct

from quire_proto.private_dir import NotPrivate

_UCRED = struct.Struct("iII")


def insist_on_own_user(connection: socket.socket, path: str) -> None:
    """Close the connection and raise NotPrivate unless a process of our user listens at ``path``, its other end.

    Another user that made the directory before its owner could listen in it under the same names.
    """
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid != os.geteuid():
        connection.close()
        raise NotPrivate(f"{path}: the process that listens there belongs to another user (uid {uid})")


def hung_up(connection: socket.socket, wait_ms: int = 0) -> bool:
    """Whether the other end is gone, or ours is closed; waits so long for that."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(wait_ms))
