"""What an AF_UNIX socket says of its other end: whether there is one, whose process it is, whether it is gone."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from pathlib import Path

from quire_proto.private_dir import NotPrivate

_UCRED = struct.Struct("iII")


def socket_state(path: Path) -> str:
    """``alive``: a process has it and listens; ``dead``: its process is gone; ``forbidden``: we may not connect; or "".

    Asked by a connection of a kind that no listener takes: the kernel refuses it for its kind where one listens (or is
    about to: the name is bound), and the listener hears nothing of it.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return ""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(str(path))
    except ConnectionRefusedError:
        return "dead"
    except PermissionError:
        return "forbidden"
    except FileNotFoundError:
        return ""
    except OSError:
        return "alive"  # EPROTOTYPE
    return "alive"


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
