"""The side socket: an AF_UNIX SEQPACKET connection that lives as long as the session.

The kvstore learns from it which process we are (its pidfd) and ties that to the ZeroMQ session by a one-time token.
We learn from its end that the kvstore is gone, at once and without a timer: the kernel closes the socket of a
killed process. ZeroMQ cannot say either.

With an arena of type ``cuda-vmm-fd`` the hello carries one file descriptor (SCM_RIGHTS): the memory itself.
"""

from __future__ import annotations

import os
import socket
import time

from quire_proto.peer_socket import hung_up, insist_on_own_user
from quire_proto.wire.codec import CodecError, decode
from quire_proto.wire.envelope import ID_BYTES, VERSION
from quire_proto.wire.errors import KvstoreUnreachable, remote_error

ATTACH_SOCKET = "attach.sock"
MAX_HELLO_BYTES = 4096
MAX_FDS = 4  # one is expected; the kernel closes what finds no room here
_RETRY_S = 0.02


class SideSocket:
    """An open side socket.

    Attributes:
        boot: boot id of the kvstore that accepted it (16 bytes).
        token: one-time token for ``attach`` (16 bytes).
        arena_fd: descriptor that came with the hello, -1 if none did; closed with the socket.
    """

    arena_fd = -1

    def __init__(self, run_dir: str | os.PathLike[str], timeout: float) -> None:
        """Connect and read the hello; retries until ``timeout`` (s), so that either side may start first.

        Raises KvstoreUnreachable, or BadRequest for a hello of another protocol version.
        """
        path = os.path.join(os.path.abspath(run_dir), ATTACH_SOCKET)
        deadline = time.monotonic() + timeout
        while True:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            try:
                self._socket.settimeout(max(_RETRY_S, deadline - time.monotonic()))
                self._socket.connect(path)
                insist_on_own_user(self._socket, path)
                hello = self._receive()
                if not hello:
                    raise ConnectionResetError("closed before the hello")
                break
            except OSError as exc:
                self.close()
                if time.monotonic() + _RETRY_S >= deadline:
                    raise KvstoreUnreachable(f"{path}: {exc}") from exc
                time.sleep(_RETRY_S)
        self._socket.setblocking(False)
        try:
            self.boot, self.token = _parse(hello)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Descriptor to watch: readable or hung up means the kvstore is gone."""
        return self._socket.fileno()

    def closed(self) -> bool:
        """Whether the kvstore's end is gone (or ours is closed)."""
        return hung_up(self._socket)

    def close(self) -> None:
        """Close our end: the kvstore takes it for the end of the session."""
        self._socket.close()
        self.close_arena_fd()

    def close_arena_fd(self) -> None:
        """Close the arena's descriptor, which would keep the memory; a mapping does not need it any more."""
        if self.arena_fd >= 0:
            os.close(self.arena_fd)
            self.arena_fd = -1

    def _receive(self) -> bytes:
        hello, descriptors, _, _ = socket.recv_fds(self._socket, MAX_HELLO_BYTES, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        self.arena_fd = descriptors[0] if descriptors else -1
        return hello


def _parse(hello: bytes) -> tuple[bytes, bytes]:
    try:
        value = decode(hello, MAX_HELLO_BYTES)
    except CodecError as exc:
        raise remote_error(exc.code, f"hello of the side socket: {exc.message}") from None
    if not isinstance(value, dict) or type(value.get("version")) is not int:
        raise remote_error("BAD_FRAME", "hello of the side socket: expected a map with a version")
    if value["version"] != VERSION:
        raise remote_error("BAD_VERSION", f"the kvstore speaks version {value['version']}; this side {VERSION}")
    boot, token = value.get("boot"), value.get("token")
    for name, field in (("boot", boot), ("token", token)):
        if not isinstance(field, bytes) or len(field) != ID_BYTES:
            raise remote_error("BAD_FIELD", f"hello of the side socket: {name} is {ID_BYTES} bytes")
    assert isinstance(boot, bytes)
    assert isinstance(token, bytes)
    return boot, token
