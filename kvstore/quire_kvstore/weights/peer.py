"""One process at ``weights.sock``: its connection, its pidfd, and what it is still to be sent.

Nothing here waits for the peer: what its socket does not take now is sent when it does.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from contextlib import suppress
from typing import Any

from quire_kvstore.host.attach_socket import Accepted
from quire_proto.messages.weights import BringWeights
from quire_proto.weights.manifest import Manifest
from quire_proto.weights.packets import FROM_CLIENTS, MAX_PACKET, decode_packet, encode_packet
from quire_proto.wire.codec import CodecError

MOST_UNREAD = 1024
READ, ENDED = select.POLLIN, select.POLLRDHUP | select.POLLHUP | select.POLLERR


class WeightsPeer:
    """A connection.

    Attributes:
        fd: descriptor to poll, -1 once the connection is closed.
        brought: what it has begun to bring, with the manifest so far and the descriptor.
        ending: it was refused: nothing more of it is read, and the connection ends when it has been told.
    """

    def __init__(self, accepted: Accepted) -> None:
        self._socket, self.pidfd, self.pid, self.uid = accepted
        self.fd = self._socket.fileno()
        self.brought: tuple[BringWeights, Manifest, int] | None = None
        self.ending = False
        self._outbox: deque[tuple[bytes, int]] = deque()

    @property
    def events(self) -> int:
        """What to poll the connection for."""
        return READ | select.POLLRDHUP | (select.POLLOUT if self._outbox else 0)

    def receive(self) -> tuple[Any, int] | None:
        """A message and the descriptor that came with it (-1: none), or None if there is none now.

        Raises CodecError, and EOFError once all was read of a connection that ended.
        """
        try:
            packet, fds, flags, _ = socket.recv_fds(
                self._socket, MAX_PACKET, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError:
            raise EOFError from None
        fd = fds[0] if fds else -1
        try:
            if not packet:
                raise EOFError
            if flags & socket.MSG_TRUNC:
                raise CodecError("TOO_LARGE", f"a packet of more than {MAX_PACKET} bytes")
            message = decode_packet(packet, FROM_CLIENTS)
            if (fd >= 0) != isinstance(message, BringWeights):
                raise CodecError("BAD_FIELD", "a descriptor comes with bring, and with nothing else")
        except BaseException:
            _close(fd)
            raise
        return message, fd

    def send(self, message: Any, fd: int = -1) -> None:
        """Queue a message; ``fd`` must stay open until it is sent or the connection is closed."""
        self.send_packets([encode_packet(message)], fd)

    def send_packets(self, packets: list[bytes], fd: int = -1) -> None:
        """The same with packets, the first of them with the descriptor."""
        for packet in packets:
            self._outbox.append((packet, fd))
            fd = -1

    def flush(self) -> None:
        """Send what the socket takes now."""
        while self._outbox and self.fd >= 0:
            packet, fd = self._outbox[0]
            try:
                socket.send_fds(
                    self._socket, [packet], [fd] if fd >= 0 else [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
                )
            except BlockingIOError:
                return
            except OSError:
                self._outbox.clear()  # it is gone: its end will be read
                return
            self._outbox.popleft()

    def told(self) -> bool:
        """Whether it was sent everything."""
        return not self._outbox

    def hang_up(self) -> None:
        """Close the connection; the process stays watched."""
        with suppress(OSError):
            # Closed over what was not read, the connection would fail there before its last answer is read.
            for _ in range(MOST_UNREAD):
                if not self._socket.recv(1, socket.MSG_DONTWAIT):
                    break
        self._socket.close()
        self.fd = -1
        self._outbox.clear()
        if self.brought is not None:
            _close(self.brought[2])
            self.brought = None

    def close(self) -> None:
        """Close the connection and stop watching."""
        self.hang_up()
        os.close(self.pidfd)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
