"""KVClient: the blocking client of the kvstore.

One thread uses a client; one request is in flight at a time. A request that is not answered within ``resend``
seconds is sent again, the same bytes on a fresh connection, until ``timeout``; one that was answered BUSY is sent
again on the same connection, when the kvstore said. If an *ordered* request then still has no answer, it is not known
whether it was applied: the session is lost, and the process attaches again. A wait for another sequence holds up
nothing: it has a socket and thread of its own (``waits``). All but sockets and waiting is shared with the asyncio
client (``session``, ``attachment``).
"""

from __future__ import annotations

import os
import time
from queue import SimpleQueue
from typing import Self, TypeVar

import zmq

from quire_proto.messages import Detached, DomainKey, Empty, Publication, Wait, Waited
from quire_proto.op_table import ATTACH, DETACH, PUBLICATIONS, READY, Op
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.digests import salted
from quire_proto.wire.errors import DeviceFault, KvstoreUnreachable, LocalError, QuireError
from quire_proto.wire.layout import Layout

from .attach_socket import SideSocket
from .attached import Attachment, OnLost, SessionBase, attach_body, unanswered
from .calls import ReadCalls, SessionCalls
from .requests import Answer, Pending, Session
from .socket import Wire, address
from .waits import Then, Waits

_R = TypeVar("_R")
RunDir = str | os.PathLike[str]
GOODBYE_S = 1.0


class _Caller:
    """Sends one request at a time and waits for its reply."""

    def __init__(self, run_dir: RunDir, timeout: float, resend: float) -> None:
        self._timeout, self._resend = timeout, resend
        self._session = Session()
        self._to = address(run_dir)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wire = Wire(self._context, self._to)

    def call(self, op: Op[_R], body: object) -> _R:
        """Send one request and return its reply, item codes as they are.

        Raises LimitError before sending, a RemoteError that the kvstore answered with, or KvstoreUnreachable.
        """
        if self._wire.closed:
            raise LocalError("the client is closed")
        self._check()
        return self._exchange(op, body, self._timeout)

    def _exchange(self, op: Op[_R], body: object, timeout: float) -> _R:
        deadline = time.monotonic() + timeout
        fresh = not self._session.in_flight()  # else an interrupted call left a request behind: it goes first
        pending = self._session.request(op, body, timeout)
        while True:
            if not fresh:
                self._wire.reconnect()
            for request in self._session.in_flight():
                self._wire.send(request.frame)
            answer = self._await(pending, deadline)
            if answer is not None:
                self._notice(answer)
                reply: _R = answer.result()
                return reply
            if time.monotonic() >= deadline:
                raise self._unanswered(pending)
            fresh = False

    def _await(self, pending: Pending, deadline: float) -> Answer | None:
        """The answer, or None if there is none until ``deadline``, or until it is time for a fresh connection."""
        until = time.monotonic() + self._resend
        again, refused = until, list[Pending]()
        while True:
            for frame in self._wire.receive():
                for answer in self._session.feed(frame):
                    if answer.pending is pending:
                        return answer
            self._check()
            now = time.monotonic()
            seconds, busy = self._session.drain_refused()
            if busy:
                again, refused = now + seconds, busy
                until = again + self._resend
            if refused and now >= again:
                for request in refused:
                    self._wire.send(request.frame)
                refused = []
            if now >= min(until, deadline):
                return None
            self._wire.poll(min(until, deadline, again if refused else until) - now)

    def _check(self) -> None:
        """Raise if no reply can be expected any more."""

    def _notice(self, answer: Answer) -> None:
        """Look at an answer before its caller does."""

    def _unanswered(self, pending: Pending) -> QuireError:
        return unanswered(pending, self._session, None, self._timeout)

    def _close_socket(self) -> None:
        self._wire.close()
        self._context.term()


class KVReader(_Caller, ReadCalls):
    """A client without a session: reading, and administration."""

    def __init__(self, run_dir: RunDir, *, timeout: float = 5.0, resend: float = 1.0) -> None:
        """``timeout``: seconds for a call in all; ``resend``: seconds until it is sent again."""
        super().__init__(run_dir, timeout, resend)

    def close(self) -> None:
        """Close the socket."""
        self._close_socket()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class KVClient(_Caller, SessionCalls, SessionBase):
    """An attached, mapped and ready session. Use as a context manager: leaving detaches."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        name: str = "",
        layout: Layout | None = None,
        gpu_uuid: str = "",
        timeout: float = 5.0,
        resend: float = 1.0,
        on_lost: OnLost | None = None,
    ) -> None:
        """Attach, map the arena, and report ready.

        Args:
            run_dir: directory of the kvstore's sockets.
            name: shown in ``stats``.
            layout: what this engine computed from its model; None takes the pool's as it is.
            gpu_uuid: GPU of this engine, "" on a host arena.
            timeout: seconds for the side socket to answer, and for each call in all.
            resend: seconds until an unanswered request is sent again.
            on_lost: called once when the session is lost, on the thread that noticed (mostly the heartbeat's).

        Raises:
            KvstoreUnreachable, LayoutMismatch, MapError, or another QuireError; nothing stays open then.
        """
        super().__init__(run_dir, timeout, resend)
        self._open = self._leaving = False
        self._waits: Waits | None = None
        try:
            self._held = self._attach(SideSocket(run_dir, timeout), name, layout, gpu_uuid, on_lost)
        except BaseException:
            self._close_socket()
            raise
        self._open = True
        self._wire.watch(self._held.side.fileno())
        try:
            self.map()
            self.call(READY, Empty())
        except BaseException:
            self.close()
            raise

    def _attach(
        self, side: SideSocket, name: str, layout: Layout | None, gpu_uuid: str, on_lost: OnLost | None
    ) -> Attachment:
        try:
            self._session.boot = side.boot
            sent = time.monotonic()
            attached = self.call(ATTACH, attach_body(side, name, layout, gpu_uuid))
            self._session.opened(attached)
            return Attachment(side, attached, sent, self._to, on_lost)
        except BaseException:
            side.close()
            raise

    def chain(self, tenant: str, tokens: bytes = b"", salt: str = "") -> DomainChain:
        """A digest chain in the tenant's own domain, begun with packed ``tokens``; the key is fetched once. With a
        ``salt`` it shares nothing with chains of another."""
        return DomainChain(salted(self._domain(tenant).key, salt), self.block_size, tokens)

    def match(self, tenant: str, tokens: bytes) -> Publication | None:
        """The longest publication the packed ``tokens`` begin with, of those the tenant may use."""
        if self.publications_stale:
            self.refresh_publications()
        return self.publications.match(tokens, self._domain(tenant).domains)

    def wait(
        self,
        sequence: int,
        digest: bytes = b"",
        publication: str = "",
        priority: int = 0,
        publication_generation: int = 0,
        *,
        timeout: float = 30.0,
    ) -> Waited:
        """Wait for what another sequence is computing, after an ``allocate`` raised Claimed; allocate again then.

        Args:
            sequence: the number of that allocate.
            digest: the last one of ``Claimed.claimed``, 32 bytes; if that was empty, name the ``publication``.
            publication: the one that the allocate named.
            priority: as of that allocate; the owner inherits it.
            publication_generation: as of that allocate.
            timeout: seconds until it ends with ``deadline``.

        Returns:
            ``state``: ``sealed``, it is there; ``yours``, it is this sequence's to compute; or ``deadline``.

        Raises a QuireError if the session is lost, or the kvstore does not answer within ``timeout`` (s) and a bit.
        """
        ended: SimpleQueue[Waited | QuireError] = SimpleQueue()
        self.begin_wait(Wait(sequence, digest, publication, priority, publication_generation), timeout, ended.put)
        answer = ended.get()
        if isinstance(answer, QuireError):
            raise answer
        return answer

    def begin_wait(self, body: Wait, timeout: float, then: Then) -> None:
        """As ``wait``, but return at once: ``then`` is called with its end, once, on another thread."""
        self._held.check()
        if self._waits is None:
            self._waits = Waits(self._to, self._held)
        self._waits.begin(body, timeout, then)

    def refresh_publications(self) -> None:
        """Fetch the publication list again."""
        self._held.refresh(self.call(PUBLICATIONS, Empty()))

    def _domain(self, tenant: str) -> DomainKey:
        if tenant not in self._held.domains:
            self._held.domains[tenant] = self.domain(tenant=tenant)
        return self._held.domains[tenant]

    def detach(self) -> Detached:
        """End the session, giving up all it holds; all work naming its blocks must have completed.

        Returns how many references came back. The client is closed afterwards, also if this raises.
        """
        if self._wire.closed:
            raise LocalError("the client is closed")
        self._check()
        return self._leave(self._timeout)

    def close(self) -> None:
        """Detach if that is still possible, and close everything; the same demand as ``detach``, no errors.

        A lost session too says goodbye: that acknowledges its fence. If the kvstore cannot hear it, the blocks stay
        in quarantine until this process ends. Raises DeviceFault alone, when this process should end.
        """
        if self._open:
            try:
                self._leave(min(self._timeout, GOODBYE_S))
            except DeviceFault:
                raise
            except QuireError:
                pass

    def _leave(self, timeout: float) -> Detached:
        self._open, self._leaving = False, True
        try:
            if self._waits is not None:
                self._waits.close()
            self._held.heartbeat.close()  # first: a heartbeat after the detach would look like a lost session
            if not self._session.has_space():
                raise KvstoreUnreachable("unanswered requests fill the window")
            return self._exchange(DETACH, Empty(), timeout)
        finally:
            self._close_socket()
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._open:
            self._held.check()
        elif self._leaving and self._held.side.closed():
            raise KvstoreUnreachable("the kvstore closed the side socket")

    def _notice(self, answer: Answer) -> None:
        if self._open:
            self._held.notice(answer.error)

    def _unanswered(self, pending: Pending) -> QuireError:
        return unanswered(pending, self._session, self._held if self._open else None, self._timeout)
