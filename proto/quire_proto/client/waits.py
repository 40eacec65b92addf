"""Waits: deferred replies on a socket and thread of their own, so that no wait holds up a step.

The kvstore answers a ``wait`` when what it names is sealed, has become this sequence's to compute, or its time is
over. Until then nothing is known of it here; a wait is therefore said again every few seconds (repeating one is
harmless, and makes good a reply that went astray), or, answered BUSY, when the kvstore said. Each wait ends exactly
once: with the kvstore's answer, or with an error if there is none some time after its deadline, or if the session
ends first.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import zmq

from quire_proto.messages import Wait, Waited
from quire_proto.op_table import WAIT
from quire_proto.wire.errors import KvstoreUnreachable, LocalError, QuireError, StaleSession

from .requests import Pending, Session
from .socket import Wire

if TYPE_CHECKING:
    from .attached import Attachment

Then = Callable[[Waited | QuireError], None]
RESEND_S = 5.0
LATE_S = 2.0  # what an answer may take beyond the deadline it was asked for
LOOK_S = 0.5  # how often a lost session is looked for


@dataclass(slots=True, eq=False)
class _Open:
    """A wait in flight. Times are monotonic seconds."""

    body: Wait
    pending: Pending
    then: Then
    until: float
    resend: float


class Waits:
    """The waits of one session. ``begin`` may be called from any thread."""

    def __init__(self, to: str, held: Attachment) -> None:
        """Connect to the kvstore at ``to`` as the session of ``held``."""
        self._held = held
        self._session = Session(held.side.boot, held.attached.session)
        self._session.opened(held.attached)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wire = Wire(self._context, to)
        self._new: SimpleQueue[tuple[Wait, float, Then]] = SimpleQueue()
        self._open: dict[int, _Open] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended: QuireError | None = None
        self._over = False
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="quire-waits", daemon=True)
        self._thread.start()

    def begin(self, body: Wait, timeout: float, then: Then) -> None:
        """Ask; ``then`` is called once, on this thread of ours, with the answer or an error. It must not block."""
        with self._ending:
            if not self._over:
                self._new.put((body, timeout, then))
                os.eventfd_write(self._wake, 1)
                return
        then(self._ended or LocalError("the client is closed"))

    def close(self) -> None:
        """End all waits with an error, and the thread."""
        self._ended = self._ended or LocalError("the client is closed")
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._context.term()

    def _run(self) -> None:
        self._wire.watch(self._wake)
        try:
            while self._ended is None:
                self._wire.poll(self._next())
                self._take_new()
                self._receive()
                self._look(time.monotonic())
        except QuireError as exc:
            self._ended = exc
        finally:
            self._wire.close()
            self._end_all()

    def _next(self) -> float:
        """Seconds until something is due."""
        if not self._open:
            return 60.0
        due = min(min(wait.resend, wait.until) for wait in self._open.values())
        return min(LOOK_S, due - time.monotonic())

    def _take_new(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while True:
            try:
                body, timeout, then = self._new.get_nowait()
            except Empty:
                return
            now = time.monotonic()
            pending = self._session.request(WAIT, body, timeout)
            self._open[pending.number] = _Open(body, pending, then, now + timeout + LATE_S, now + RESEND_S)
            self._wire.send(pending.frame)

    def _receive(self) -> None:
        for frame in self._wire.receive():
            for answer in self._session.feed(frame):
                wait = self._open.pop(answer.pending.number)
                self._held.notice(answer.error)
                wait.then(answer.error or answer.value)
        seconds, refused = self._session.drain_refused()
        for pending in refused:
            self._open[pending.number].resend = time.monotonic() + seconds

    def _look(self, now: float) -> None:
        if self._held.side.closed() or self._held.heartbeat.lost.is_set():
            raise self._held.heartbeat.reason or StaleSession("STALE_SESSION", "the kvstore closed the side socket")
        for number, wait in list(self._open.items()):
            if now >= wait.until:
                self._session.abandon(self._open.pop(number).pending)
                wait.then(KvstoreUnreachable("no reply to wait"))
            elif now >= wait.resend:
                wait.resend = now + RESEND_S
                self._wire.send(wait.pending.frame)

    def _end_all(self) -> None:
        """After the loop ``_ended`` says why; a wait begun meanwhile ends too."""
        reason = self._ended or LocalError("the client is closed")
        with self._ending:
            self._over = True
        for wait in self._open.values():
            wait.then(reason)
        self._open.clear()
        while True:
            try:
                self._new.get_nowait()[2](reason)
            except Empty:
                return
