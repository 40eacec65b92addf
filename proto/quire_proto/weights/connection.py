"""A client's side of ``weights.sock``: one connection is one claim, and later one hold on an arena.

    claim -> yours -> make -> write -> (upload) -> declare ... seal -> sealed        the writer
    claim -> wait -> read or yours                                                   all others

As long as the connection is open the arena stays. ``release`` says that nothing of this process maps it any more; a
connection that ends without that counts as a mapping until the process is dead.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any

from quire_proto.messages import weights as w
from quire_proto.peer_socket import hung_up, insist_on_own_user
from quire_proto.wire.codec import CodecError
from quire_proto.wire.envelope import VERSION
from quire_proto.wire.errors import KvstoreUnreachable, QuireError, remote_error

from .manifest import BadManifest, Manifest
from .packets import FROM_KVSTORE, MAX_PACKET, WEIGHTS_SOCKET, declarations, decode_packet, encode_packet

ANSWER_S = 30.0  # for what the kvstore answers at once; memory may have to be made
_RETRY_S = 0.02


class WeightsConnection:
    """An open connection.

    Attributes:
        fd: descriptor of the arena, -1 if there is none; closed with the connection.
    """

    fd = -1

    def __init__(self, run_dir: str | os.PathLike[str], timeout: float) -> None:
        """Connect; retries until ``timeout`` (s). Raises KvstoreUnreachable."""
        path = os.path.join(os.path.abspath(run_dir), WEIGHTS_SOCKET)
        deadline = time.monotonic() + timeout
        while True:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            try:
                self._socket.connect(path)
                break
            except OSError as exc:
                self._socket.close()
                if time.monotonic() + _RETRY_S >= deadline:
                    raise KvstoreUnreachable(f"{path}: {exc.strerror}") from exc
                time.sleep(_RETRY_S)
        insist_on_own_user(self._socket, path)

    def claim(self, key: bytes) -> w.WaitWeights | w.YourWeights | w.ReadWeights:
        """Ask for the weights of a key. Raises RemoteError, KvstoreUnreachable."""
        self._send(w.ClaimWeights(VERSION, key))
        return self._answer(ANSWER_S, w.WaitWeights, w.YourWeights, w.ReadWeights)  # type: ignore[no-any-return]

    def wait(self, timeout: float) -> w.WaitWeights | w.YourWeights | w.ReadWeights:
        """After ``wait``: what became of the writer. Raises RemoteError, KvstoreUnreachable."""
        return self._answer(timeout, w.WaitWeights, w.YourWeights, w.ReadWeights)  # type: ignore[no-any-return]

    def make(self, size: int) -> w.WriteWeights:
        """After ``yours``: have the memory made. Raises RemoteError, KvstoreUnreachable."""
        self._send(w.MakeWeights(size))
        return self._answer(ANSWER_S, w.WriteWeights)  # type: ignore[no-any-return]

    def beat(self) -> None:
        """Say that this process still works on what it has claimed. Raises KvstoreUnreachable."""
        self._send(w.BeatWeights())

    def seal(self, tensors: tuple[w.WeightTensor, ...]) -> None:
        """Let others read: all that is declared is written. Raises RemoteError, KvstoreUnreachable."""
        self._declare(tensors)
        self._send(w.SealWeights(len(tensors)))
        self._answer(ANSWER_S, w.SealedWeights)

    def manifest(self, read: w.ReadWeights) -> tuple[w.WeightTensor, ...]:
        """The tensors behind ``read``. Raises RemoteError for a manifest that cannot be true, KvstoreUnreachable."""
        found = Manifest(read.handle.size)
        try:
            while len(found.tensors) < read.tensors:
                found.add(self._answer(ANSWER_S, w.DeclareWeights).tensors)
            found.complete(read.tensors)
        except BadManifest as exc:
            raise remote_error("BAD_FIELD", f"the manifest of the weights: {exc}") from None
        return tuple(found.tensors.values())

    def bring(self, key: bytes, arena: bytes, size: int, tensors: tuple[w.WeightTensor, ...], fd: int) -> None:
        """Give a kvstore that was started anew the memory that this process maps; ``fd`` stays the caller's.

        Raises RemoteError, KvstoreUnreachable.
        """
        self._send(w.BringWeights(VERSION, key, arena, size, len(tensors)), fd)
        self._declare(tensors)
        self._answer(ANSWER_S, w.SealedWeights)

    def closed(self, wait_ms: int = 0) -> bool:
        """Whether the kvstore's end is gone, or ours is closed; waits so long for that."""
        return hung_up(self._socket, wait_ms)

    def release(self) -> None:
        """Say that nothing of this process maps the arena, and close."""
        with suppress(QuireError):  # it may know nothing of us any more
            self._send(w.ReleaseWeights())
        self.close()

    def close(self) -> None:
        """Close our end and the descriptor."""
        self._socket.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _declare(self, tensors: tuple[w.WeightTensor, ...]) -> None:
        for packet in declarations(tensors):
            self._send_bytes(packet)

    def _send(self, message: Any, fd: int = -1) -> None:
        self._send_bytes(encode_packet(message), fd)

    def _send_bytes(self, packet: bytes, fd: int = -1) -> None:
        try:
            self._socket.settimeout(ANSWER_S)
            socket.send_fds(self._socket, [packet], [fd] if fd >= 0 else [], socket.MSG_NOSIGNAL)
        except OSError as exc:
            if (refused := self._refusal()) is not None:
                raise refused from None
            raise KvstoreUnreachable(f"{WEIGHTS_SOCKET}: {exc}") from exc

    def _refusal(self) -> QuireError | None:
        """What the kvstore had said before it closed its end."""
        try:
            self._answer(0.001)
        except KvstoreUnreachable:
            return None
        except QuireError as exc:
            return exc
        return None

    def _answer(self, timeout: float, *expected: Any) -> Any:
        try:
            self._socket.settimeout(timeout)
            try:
                packet, fds, _, _ = socket.recv_fds(self._socket, MAX_PACKET, 1, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:  # it closed over what we sent; what it had said before can be read now
                packet, fds, _, _ = socket.recv_fds(self._socket, MAX_PACKET, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as exc:
            raise KvstoreUnreachable(f"{WEIGHTS_SOCKET}: {exc}") from exc
        if fds:
            self._keep(fds[0])
        if not packet:
            raise KvstoreUnreachable(f"{WEIGHTS_SOCKET}: the kvstore has closed the connection")
        try:
            message = decode_packet(packet, FROM_KVSTORE)
        except CodecError as exc:
            raise remote_error(exc.code, f"a packet of {WEIGHTS_SOCKET}: {exc.message}") from None
        if isinstance(message, w.RefusedWeights):
            raise remote_error(message.code, message.message)
        if not isinstance(message, expected):
            raise remote_error("BAD_FIELD", f"a packet of {WEIGHTS_SOCKET}: {message.type!r} at the wrong time")
        return message

    def _keep(self, fd: int) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = fd
