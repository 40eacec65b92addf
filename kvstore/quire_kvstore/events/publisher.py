"""Publisher: the event stream, from a thread and sockets of its own. PUB for what happens, ROUTER for what was missed.

    store's thread:  journal --collect, if the last reading is done with--> one place in a queue
    this thread:     reading -> catalogue -> batches -> PUB, and the newest of them kept for replay

The store never waits: ``collect`` hands a reading over or leaves the changes in the journal, where they merge. So
nothing is lost on this side however far behind this thread is, and what waits is bounded by the pool. Towards a
subscriber that does not read, ZeroMQ drops at its high-water mark; the numbers of the batches show the gap, and a
replay closes it. One from before the oldest batch kept is answered with the whole catalogue, in one batch under
the newest number, so that a gap of any length can be closed. A subscriber that takes nothing but consecutive numbers
refuses that: so the whole catalogue is published live as well then, at most once in ``RESTATE_S``.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue

import structlog
import zmq

from quire_kvstore.sharing.change_log import Changes, Journal
from quire_proto.private_dir import free_socket_name

from .batch import EVENTS_A_BATCH, encode_batch
from .catalogue import Catalogue, Event, Form
from .curve import Curve, authenticated
from .errors import EventsError
from .numbers import Numbers

IPC_SCHEME = "ipc://"
HWM = 100_000
BUFFER_BATCHES, BUFFER_BYTES = 10_000, 64 * 1024 * 1024
END = (-1).to_bytes(8, "big", signed=True)
REPLAYS_A_TURN = 8
LINGER_MS = 200
RESTATE_S = 10.0  # between two times that everything is published
MAX_REQUEST_BYTES = 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the stream is: ``live`` for PUB, ``replay`` for ROUTER."""

    live: str
    replay: str


class Publisher:
    """The event stream from construction to ``close``."""

    def __init__(
        self,
        endpoints: Endpoints,
        topic: str,
        form: Form,
        numbers: Numbers | None = None,
        curve: Curve | None = None,
        buffer: int = BUFFER_BATCHES,
        hwm: int = HWM,
        restate_s: float = RESTATE_S,
    ) -> None:
        """Bind both sockets and tell that all blocks were cleared. Raises EventsError.

        ``numbers``: of the batches (default: from 0). ``curve``: keys (default: whoever connects may read).
        ``buffer``: batches kept for replay. ``hwm``: batches that wait for a subscriber before more are dropped.
        ``restate_s``: seconds between two times that everything is published.
        """
        self._topic, self._catalogue = topic.encode(), Catalogue(form)
        self._endpoints = endpoints.live, endpoints.replay
        self._numbers = numbers or Numbers()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes, self._buffer = 0, buffer
        self._readings: SimpleQueue[Changes] = SimpleQueue()
        self._wanted, self._restated, self._restate_s = False, -restate_s, restate_s
        self._stopping = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._curve, self._checks = curve, ExitStack()
        self._checks.enter_context(authenticated(self._context, curve))
        self._live = self._bind(zmq.PUB, endpoints.live, hwm)
        self._replay = self._bind(zmq.ROUTER, endpoints.replay, 2 * (buffer + 1))
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def collect(self, journal: Journal) -> None:
        """Take what happened, unless there is still something to be told from before. Called by the store's thread."""
        if journal and self._readings.empty():
            self._readings.put(journal.drain())
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Tell what was collected and that all blocks are cleared; close the sockets and remove their files."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for socket in (self._live, self._replay):
            socket.close(LINGER_MS)
        self._checks.close()
        self._context.term()
        os.close(self._wake)
        for endpoint in self._endpoints:
            if endpoint.startswith(IPC_SCHEME):
                Path(endpoint.removeprefix(IPC_SCHEME)).unlink(missing_ok=True)

    def _bind(self, kind: int, endpoint: str, hwm: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        options = {zmq.LINGER: 0, zmq.SNDHWM: hwm, zmq.IPV6: 1}
        if self._curve is not None:
            self._curve.secure(socket)
        if kind == zmq.ROUTER:
            options |= {zmq.RCVHWM: 64, zmq.MAXMSGSIZE: MAX_REQUEST_BYTES, zmq.ROUTER_MANDATORY: 1}
        for option, value in options.items():
            socket.setsockopt(option, value)
        mask = os.umask(0o177)
        try:
            if endpoint.startswith(IPC_SCHEME):
                free_socket_name(endpoint.removeprefix(IPC_SCHEME))  # libzmq would remove whatever is there
            socket.bind(endpoint)
        except (zmq.ZMQError, OSError) as exc:
            socket.close(0)
            self._checks.close()
            self._context.destroy(0)
            raise EventsError(f"events at {endpoint}: {exc}") from exc
        finally:
            os.umask(mask)
        return socket

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._replay, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        self._publish(iter([{"type": "AllBlocksCleared"}]))
        while not self._stopping:
            if dict(poller.poll(self._pause_ms())).get(self._wake):
                os.eventfd_read(self._wake)
            self._tell()
            self._serve_replays()
            if self._pause_ms() == 0:
                self._wanted, self._restated = False, time.monotonic()
                self._publish(self._catalogue.everything())
        self._tell()
        self._publish(iter([{"type": "AllBlocksCleared"}]))
        self._numbers.settle()

    def _pause_ms(self) -> int | None:
        """Until everything is to be published; None if that is not wanted."""
        if not self._wanted:
            return None
        return max(0, math.ceil(1000 * (self._restated + self._restate_s - time.monotonic())))

    def _tell(self) -> None:
        try:
            changes = self._readings.get_nowait()
        except Empty:
            return
        self._publish(self._catalogue.apply(changes))

    def _publish(self, events: Iterator[Event]) -> None:
        """Send events in batches of a size that is encoded quickly, and keep the batches."""
        for first in events:
            payload = encode_batch([first, *islice(events, EVENTS_A_BATCH - 1)], time.time())
            number = self._numbers.take()
            self._live.send_multipart((self._topic, number.to_bytes(8, "big"), payload))
            self._kept.append((number, payload))
            self._kept_bytes += len(payload)
            while len(self._kept) > 1 and (len(self._kept) > self._buffer or self._kept_bytes > BUFFER_BYTES):
                self._kept_bytes -= len(self._kept.popleft()[1])

    def _serve_replays(self) -> None:
        for _ in range(REPLAYS_A_TURN):
            try:
                identity, *frames = self._replay.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            start = _start(frames)
            missed = chain(() if start is None else self._since(start), ((END, b""),))
            try:
                for number, payload in missed:
                    topic = b"" if number == END else self._topic
                    self._replay.send_multipart((identity, b"", topic, number, payload), zmq.DONTWAIT)
            except zmq.ZMQError:
                log.warning("replay_abandoned", peer=identity.hex())  # it does not read, or is gone

    def _since(self, start: int) -> Iterator[tuple[bytes, bytes]]:
        """Batches from a number on; all that is so instead, if some of them are not kept any more."""
        if start < self._kept[0][0]:
            self._wanted = True
            yield self._kept[-1][0].to_bytes(8, "big"), encode_batch(self._catalogue.everything(), time.time())
            return
        for number, payload in self._kept:
            if number >= start:
                yield number.to_bytes(8, "big"), payload


def _start(frames: list[bytes]) -> int | None:
    """The number a replay is asked from, or None if that is no replay request."""
    if len(frames) != 2 or frames[0] or len(frames[1]) != 8:
        return None
    return int.from_bytes(frames[1], "big")
