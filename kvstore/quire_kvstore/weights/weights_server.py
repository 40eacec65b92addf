"""The server of ``weights.sock``: a thread of its own, so that neither the driver nor a slow reader stops the store.

It owns the arenas (``arenas``) and everything that touches the driver after the start. Other threads see of it only
``info``, which is replaced whole. A peer's references come back when it says that it has unmapped, or when the kernel
says that its process is dead; a connection that merely ends gives nothing back.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from quire_kvstore.host.arena import ArenaError
from quire_kvstore.host.arena_choice import VMM
from quire_kvstore.host.attach_socket import Listener, PeerGone
from quire_kvstore.host.device_mappers import Mapper, Mappers
from quire_proto.memory.cuda_device import Device
from quire_proto.messages import weights as w
from quire_proto.messages.query import WeightsInfo
from quire_proto.weights.manifest import BadManifest, Manifest
from quire_proto.weights.packets import WEIGHTS_SOCKET, declarations
from quire_proto.wire.codec import CodecError
from quire_proto.wire.envelope import VERSION

from .arenas import WeightsArenas
from .memory import BroughtArena, make_memory
from .peer import ENDED, READ, WeightsPeer

CLAIM_MS = 300_000  # a writer reads its checkpoint meanwhile
MAX_PEERS = 256
MAX_IDENTITY_BYTES = 16
JUDGED_EVERY_MS = 100
PACKETS_A_TURN = 64  # of one peer

log = structlog.get_logger()


class WeightsServer:
    """Serves the weights of one GPU until ``close``.

    Args:
        mappers: roster of the processes that are connected; None where memory outlives its exporter anyway.
    """

    def __init__(self, run_dir: Path, kind: str, device: Device, keep_ms: int, mappers: Mappers | None = None) -> None:
        """Listen, and start the thread."""
        self.info: tuple[WeightsInfo, ...] = ()
        self._kind, self._device, self._mappers = kind, device, mappers
        self._listener = Listener(run_dir, WEIGHTS_SOCKET)
        self._poll = select.poll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for fd in (self._listener.fileno(), self._wake):
            self._poll.register(fd, READ)
        self._peers: set[WeightsPeer] = set()
        self._by_fd: dict[int, WeightsPeer] = {}
        self._entries: dict[WeightsPeer, Mapper | None] = {}
        self._arenas = WeightsArenas(
            lambda size: make_memory(kind, device, size), lambda: os.urandom(16), _pid_of, keep_ms, CLAIM_MS
        )
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, all connections, and what memory is ours."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except Exception:
            log.exception("weights_server_failed", meaning="engines that start from now on load weights of their own")
        finally:
            self._listener.close()
            for peer in self._peers:
                peer.close()
            self._arenas.close()
            self.info = ()

    def _turn(self) -> None:
        ready = self._poll.poll(JUDGED_EVERY_MS)
        now = time.monotonic_ns() // 1_000_000
        for fd, events in ready:
            peer = self._by_fd.get(fd)
            if fd == self._listener.fileno():
                self._accept()
            elif peer is not None and fd == peer.pidfd:
                self._gone(peer, now)
            elif peer is not None and peer.fd == fd:
                self._attend(peer, events, now)
        self._arenas.judge(now)
        self._tell(now)

    def _accept(self) -> None:
        try:
            accepted = self._listener.accept()
        except PeerGone as exc:
            log.info("peer_gone", reason=str(exc))
            return
        if accepted is None:
            return
        peer = WeightsPeer(accepted)
        if len(self._peers) >= MAX_PEERS or peer.uid != os.getuid():
            log.warning("weights_peer_refused", peer_pid=peer.pid, uid=peer.uid, connections=len(self._peers))
            peer.close()
            return
        if self._mappers is not None:
            self._entries[peer] = self._mappers.add(peer.pid)
        self._peers.add(peer)
        for fd in (peer.fd, peer.pidfd):
            self._by_fd[fd] = peer
        self._poll.register(peer.fd, peer.events)
        self._poll.register(peer.pidfd, READ)

    def _attend(self, peer: WeightsPeer, events: int, now: int) -> None:
        try:
            for _ in range(PACKETS_A_TURN):
                if peer.ending:
                    raise EOFError
                received = peer.receive()
                if received is None:
                    break
                if isinstance(received[0], w.ReleaseWeights):
                    self._gone(peer, now)
                    return
                self._carry_out(peer, *received, now)
                self._tell(now)
                if peer not in self._peers:
                    return
            else:
                return
        except CodecError as exc:
            self._answer(peer, w.RefusedWeights(exc.code, exc.message))
            self._flush(peer, now)
            return
        except EOFError:
            self._hang_up(peer, now)
            return
        if events & ENDED:
            self._hang_up(peer, now)
        elif events & select.POLLOUT:
            self._flush(peer, now)

    def _carry_out(self, peer: WeightsPeer, message: Any, fd: int, now: int) -> None:
        arenas = self._arenas
        if isinstance(message, w.ClaimWeights | w.BringWeights) and message.version != VERSION:
            _close(fd)
            raise CodecError("BAD_VERSION", f"protocol version {message.version}; this is {VERSION}")
        match message:
            case w.ClaimWeights():
                arenas.claim(peer, message.key, now)
            case w.MakeWeights():
                arenas.make(peer, message.size, now)
            case w.DeclareWeights() if peer.brought is not None:
                self._bring_on(peer, message.tensors)
            case w.DeclareWeights():
                arenas.declare(peer, message.tensors, now)
            case w.SealWeights():
                arenas.seal(peer, message.tensors, now)
                log.info("weights_sealed", writer_pid=peer.pid, tensors=message.tensors)
            case w.BeatWeights():
                arenas.beat(peer, now)
            case w.BringWeights():
                if peer.brought is not None or len(message.arena) != MAX_IDENTITY_BYTES or self._kind != VMM:
                    _close(fd)
                    raise CodecError("BAD_FIELD", "bring: once, with an arena's id, where arenas are descriptors")
                peer.brought = (message, Manifest(message.size), fd)
                self._bring_on(peer, ())

    def _bring_on(self, peer: WeightsPeer, tensors: tuple[w.WeightTensor, ...]) -> None:
        """More of a manifest that is brought; with the last of it the arena is taken over."""
        assert peer.brought is not None, "it has begun to bring"
        message, manifest, fd = peer.brought
        try:
            manifest.add(tensors)
            if len(manifest.tensors) < message.tensors:
                return
            manifest.complete(message.tensors)
            peer.brought = None
            memory = BroughtArena(fd, message.size, self._device)
        except (BadManifest, ArenaError) as exc:
            raise CodecError("BAD_FIELD", str(exc)) from None
        self._arenas.bring(peer, message.key, message.arena, manifest, memory)

    def _tell(self, now: int) -> None:
        """Send what the arenas have to say."""
        self.info = self._arenas.info(now)  # before: who has an answer finds it true
        answers = self._arenas.answers
        while answers:
            peer, message = answers.popleft()
            assert isinstance(peer, WeightsPeer)
            if peer in self._peers:
                self._answer(peer, message)
                self._flush(peer, now)

    def _answer(self, peer: WeightsPeer, message: Any) -> None:
        if isinstance(message, tuple):
            peer.send_packets(declarations(message))
        elif isinstance(message, w.WriteWeights | w.ReadWeights):
            peer.send(message, self._arenas.fd_of(peer))
        else:
            peer.send(message)
        if isinstance(message, w.RefusedWeights):
            log.warning("weights_refused", peer_pid=peer.pid, code=message.code, reason=message.message)
            peer.ending = True

    def _flush(self, peer: WeightsPeer, now: int) -> None:
        peer.flush()
        if peer.ending and peer.told():
            self._hang_up(peer, now)
        elif peer.fd >= 0:
            self._poll.register(peer.fd, peer.events)

    def _hang_up(self, peer: WeightsPeer, now: int) -> None:
        """The connection ends, by either side; only the end of the process says that it maps nothing."""
        if peer.fd < 0:
            return
        self._poll.unregister(peer.fd)
        del self._by_fd[peer.fd]
        peer.hang_up()
        if self._arenas.knows(peer):
            self._arenas.hang_up(peer, now)
        if not self._arenas.knows(peer):
            self._gone(peer, now)

    def _gone(self, peer: WeightsPeer, now: int) -> None:
        """It maps nothing any more."""
        self._arenas.leave(peer, now)
        for fd in (peer.fd, peer.pidfd):
            if fd >= 0:
                self._poll.unregister(fd)
                del self._by_fd[fd]
        self._peers.discard(peer)
        entry = self._entries.pop(peer, None)
        if self._mappers is not None and entry is not None:
            self._mappers.remove(entry)
        peer.close()


def _pid_of(peer: Any) -> int:
    return int(peer.pid)


def _close(fd: int) -> None:
    if fd >= 0:
        with suppress(OSError):
            os.close(fd)
