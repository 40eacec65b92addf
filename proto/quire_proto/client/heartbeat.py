"""Heartbeats: a thread and a socket of their own, from the moment of attach.

A lease that depends on the main thread would lapse whenever a step takes long, so nothing here waits for it: the
thread owns its DEALER and its numbers, and shares with the client only a few attributes that are written by one
side. The lease is counted from the *send* time of the last acknowledged heartbeat, which is never later than the
time the kvstore counts from: this side always lets go first.

``lost`` is set once and stays: the boot id changed or the session was fenced (StaleSession), the side socket ended
(StaleSession), or the lease passed (KvstoreUnreachable). A lost session launches nothing and seals nothing; the
process attaches again and recomputes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from quire_proto.messages import Attached, Heartbeat
from quire_proto.op_table import HEARTBEAT
from quire_proto.wire.errors import KvstoreUnreachable, QuireError, StaleSession

from .attach_socket import SideSocket
from .requests import Session
from .socket import Wire

BEATS_PER_LEASE = 4


class HeartbeatThread:
    """Keeps a session's lease.

    Attributes:
        progress: steps completed; the owner counts it up, every heartbeat carries it.
        lost: set when the session is lost; ``reason`` says why.
        publications_generation: newest generation the kvstore named.
    """

    def __init__(
        self,
        wire: Wire,
        side: SideSocket,
        attached: Attached,
        sent: float,
        on_lost: Callable[[QuireError], None] | None = None,
    ) -> None:
        """Start beating. ``sent``: monotonic time at which ``attach`` was sent. ``on_lost`` runs
        once, on the thread that noticed: this one, or one that made a call."""
        self.progress = 0
        self.lost = threading.Event()
        self.reason: QuireError | None = None
        self.publications_generation = attached.publications_generation
        self._wire, self._side, self._on_lost = wire, side, on_lost
        self._session = Session(side.boot, attached.session)
        self._lease = attached.lease_ms / 1000
        self._deadline = sent + self._lease
        self._sent: dict[int, float] = {}
        self._losing = threading.Lock()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="quire-heartbeat", daemon=True)
        self._thread.start()

    def lease_valid(self) -> bool:
        """Whether the session may still launch work, seal, and keep what it computed."""
        return not self.lost.is_set() and time.monotonic() < self._deadline

    def lose(self, reason: QuireError) -> None:
        """Mark the session lost; the first reason stays."""
        with self._losing:
            if self.reason is not None:
                return
            self.reason = reason
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost(reason)

    def close(self) -> None:
        """Stop beating; does not set ``lost``. May be called twice."""
        if not self._stopping:
            self._stopping = True
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            os.close(self._stop)

    def _run(self) -> None:
        self._wire.watch(self._side.fileno())
        self._wire.watch(self._stop)
        next_beat = time.monotonic()
        try:
            while not self._stopping and not self.lost.is_set():
                now = time.monotonic()
                if now >= next_beat:
                    self._beat(now)
                    next_beat = now + self._lease / BEATS_PER_LEASE
                self._wire.poll(min(next_beat, self._deadline) - now)
                self._receive()
                self._check()
        except QuireError as exc:
            self.lose(exc)
        finally:
            self._wire.close()

    def _beat(self, now: float) -> None:
        # Only the newest heartbeats matter: one that got no answer within a lease is forgotten.
        for pending in self._session.in_flight()[: -2 * BEATS_PER_LEASE]:
            self._session.abandon(pending)
            self._sent.pop(pending.number, None)
        pending = self._session.request(HEARTBEAT, Heartbeat(self.progress), self._lease)
        self._sent[pending.number] = now
        self._wire.send(pending.frame)

    def _receive(self) -> None:
        for frame in self._wire.receive():
            for answer in self._session.feed(frame):
                sent = self._sent.pop(answer.pending.number)
                if isinstance(answer.error, StaleSession):
                    raise answer.error
                if answer.error is not None:
                    continue  # not acknowledged: the lease goes on running
                alive = answer.value
                self._lease = alive.lease_ms / 1000
                self._deadline = max(self._deadline, sent + self._lease)
                self.publications_generation = max(self.publications_generation, alive.publications_generation)

    def _check(self) -> None:
        if self._stopping:
            return
        if self._side.closed():
            self.lose(StaleSession("STALE_SESSION", "the kvstore closed the side socket"))
        elif time.monotonic() >= self._deadline:
            self.lose(KvstoreUnreachable("the lease passed without an acknowledged heartbeat"))
