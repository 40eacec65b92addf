"""AsyncKVClient: the asyncio client of the kvstore, with the same methods as ``KVClient``, awaited.

Any number of tasks may call at once: ordered requests are numbered in the order of the calls and pipelined within
the window, unordered ones are not held up. One task receives; one resends whatever stayed unanswered, the same
bytes on a fresh connection. A cancelled call stops waiting, but its ordered request stays in flight: its number
must not become a gap. Works on any asyncio loop, uvloop included.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Self, TypeVar

import zmq
import zmq.asyncio

from quire_proto.messages import Detached, DomainKey, Empty, Publication, Wait, Waited
from quire_proto.op_table import ATTACH, DETACH, PUBLICATIONS, READY, WAIT, Op
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.digests import salted
from quire_proto.wire.errors import DeviceFault, KvstoreUnreachable, LocalError, QuireError
from quire_proto.wire.layout import Layout

from .aio_calls import AsyncSessionCalls
from .attach_socket import SideSocket
from .attached import Attachment, OnLost, SessionBase, attach_body, unanswered
from .client import GOODBYE_S, RunDir
from .requests import Pending, Session
from .socket import address, connect
from .waits import LATE_S

_R = TypeVar("_R")


class AsyncKVClient(AsyncSessionCalls, SessionBase):
    """An attached, mapped and ready session; made by :meth:`connect`. ``async with`` detaches on leaving."""

    def __init__(self, run_dir: RunDir, timeout: float, resend: float) -> None:
        """Only for :meth:`connect`."""
        self._timeout, self._resend = timeout, resend
        self._session = Session()
        self._open = self._closed = False
        self._to = address(run_dir)
        self._context = zmq.asyncio.Context()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._turn = asyncio.Lock()  # ordered requests take their numbers in the order of the calls
        self._postponed: set[int] = set()  # answered BUSY, to be sent again in a moment
        self._answered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._connect()
        self._resender = self._loop.create_task(self._resend_unanswered())

    @classmethod
    async def connect(
        cls,
        run_dir: RunDir,
        *,
        name: str = "",
        layout: Layout | None = None,
        gpu_uuid: str = "",
        timeout: float = 5.0,
        resend: float = 1.0,
        on_lost: OnLost | None = None,
    ) -> Self:
        """Attach, map the arena, and report ready; arguments and errors as of ``KVClient``."""
        client = cls(run_dir, timeout, resend)
        try:
            side = await asyncio.to_thread(SideSocket, run_dir, timeout)
            await client._attach(side, attach_body(side, name, layout, gpu_uuid), on_lost)
            client.map()
            await client.call(READY, Empty())
        except BaseException:
            await client.close()
            raise
        return client

    async def _attach(self, side: SideSocket, body: object, on_lost: OnLost | None) -> None:
        try:
            self._session.boot = side.boot
            sent = time.monotonic()
            attached = await self.call(ATTACH, body)
            self._session.opened(attached)
            self._held = Attachment(side, attached, sent, self._to, self._when_lost(on_lost))
        except BaseException:
            side.close()
            raise
        self._open = True

    def _when_lost(self, on_lost: OnLost | None) -> OnLost:
        def lost(reason: QuireError) -> None:  # on any thread
            with suppress(RuntimeError):  # the loop is closed: no call waits any more
                self._loop.call_soon_threadsafe(self._fail, reason)
            if on_lost is not None:
                on_lost(reason)

        return lost

    async def call(self, op: Op[_R], body: object) -> _R:
        """Send one request and await its reply; errors as of ``KVClient.call``."""
        if self._closed:
            raise LocalError("the client is closed")
        if self._open:
            self._held.check()
        if not op.ordered:
            return await self._request(op, body)
        async with self._turn:
            await self._wait_for_space()
            waiting = self._request(op, body)
        return await waiting

    async def wait(
        self,
        sequence: int,
        digest: bytes = b"",
        publication: str = "",
        priority: int = 0,
        publication_generation: int = 0,
        *,
        timeout: float = 30.0,
    ) -> Waited:
        """Wait for what another sequence is computing, as ``KVClient.wait``; other calls go on meanwhile."""
        if self._closed:
            raise LocalError("the client is closed")
        self._held.check()
        body = Wait(sequence, digest, publication, priority, publication_generation)
        return await self._request(WAIT, body, timeout)

    def _request(self, op: Op[_R], body: object, timeout: float | None = None) -> asyncio.Future[_R]:
        timeout = self._timeout if timeout is None else timeout
        pending = self._session.request(op, body, timeout)
        future: asyncio.Future[_R] = self._loop.create_future()
        self._waiting[pending.number] = future
        self._send(pending.frame)

        def expired() -> None:
            if not future.done():
                future.set_exception(unanswered(pending, self._session, self._held_now(), timeout))

        timer = self._loop.call_later(timeout + LATE_S if op.deferred else timeout, expired)

        def done(_: asyncio.Future[_R]) -> None:
            timer.cancel()
            self._waiting.pop(pending.number, None)
            if not op.ordered and future.cancelled():
                self._session.abandon(pending)

        future.add_done_callback(done)
        return future

    def _held_now(self) -> Attachment | None:
        return self._held if self._open else None

    async def _wait_for_space(self) -> None:
        deadline = self._loop.time() + self._timeout
        while not self._session.has_space():
            self._answered.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._answered.wait()
            except TimeoutError:
                raise KvstoreUnreachable(f"the window stayed full for {self._timeout} s") from None
            self._held.check()

    def _send(self, frame: bytes) -> None:
        # DONTWAIT: the future is done at once. A full queue is left to the resend timer.
        asyncio.ensure_future(self._dealer.send(frame, zmq.DONTWAIT)).exception()

    def _connect(self) -> None:
        self._dealer = connect(self._context.socket(zmq.DEALER), self._to)
        self._receiver = self._loop.create_task(self._receive(self._dealer))

    def _disconnect(self) -> None:
        self._receiver.cancel()
        self._dealer.close(0)

    async def _receive(self, dealer: zmq.asyncio.Socket) -> None:
        while True:
            frame = await dealer.recv()
            for answer in self._session.feed(frame):
                self._answered.set()
                if self._open:
                    self._held.notice(answer.error)
                future = self._waiting.get(answer.pending.number)
                if future is None or future.done():
                    continue  # cancelled or timed out
                if answer.error is not None:
                    future.set_exception(answer.error)
                else:
                    future.set_result(answer.value)
            seconds, refused = self._session.drain_refused()
            if refused:
                self._postponed.update(pending.number for pending in refused)
                self._loop.call_later(seconds, self._send_again, refused)

    def _send_again(self, refused: list[Pending]) -> None:
        """What was answered BUSY goes out once more, if it still waits for an answer."""
        self._postponed.difference_update(pending.number for pending in refused)
        if self._closed:
            return
        still = {pending.number for pending in self._session.in_flight()}
        for pending in refused:
            if pending.number in still:
                self._send(pending.frame)

    async def _resend_unanswered(self) -> None:
        while True:
            before = {pending.number for pending in self._session.in_flight() if not pending.op.deferred}
            await asyncio.sleep(self._resend)
            still = self._session.in_flight()
            if (before & {pending.number for pending in still}) - self._postponed:
                self._disconnect()
                self._connect()
                for pending in still:
                    self._send(pending.frame)

    def _fail(self, reason: QuireError) -> None:
        self._answered.set()
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(reason)

    async def chain(self, tenant: str, tokens: bytes = b"", salt: str = "") -> DomainChain:
        """A digest chain in the tenant's own domain, begun with packed ``tokens``; the key is fetched once. With a
        ``salt`` it shares nothing with chains of another."""
        return DomainChain(salted((await self._domain(tenant)).key, salt), self.block_size, tokens)

    async def match(self, tenant: str, tokens: bytes) -> Publication | None:
        """The longest publication the packed ``tokens`` begin with, of those the tenant may use."""
        if self.publications_stale:
            await self.refresh_publications()
        return self.publications.match(tokens, (await self._domain(tenant)).domains)

    async def refresh_publications(self) -> None:
        """Fetch the publication list again."""
        self._held.refresh(await self.call(PUBLICATIONS, Empty()))

    async def _domain(self, tenant: str) -> DomainKey:
        if tenant not in self._held.domains:
            self._held.domains[tenant] = await self.domain(tenant=tenant)
        return self._held.domains[tenant]

    async def detach(self) -> Detached:
        """End the session; as ``KVClient.detach``."""
        if self._closed:
            raise LocalError("the client is closed")
        self._held.check()
        return await self._leave(self._timeout)

    async def close(self) -> None:
        """Detach if that is still possible, and close everything; as ``KVClient.close``."""
        if self._open:
            try:
                await self._leave(min(self._timeout, GOODBYE_S))
            except DeviceFault:
                raise
            except QuireError:
                pass
        elif not self._closed:
            self._release()

    async def _leave(self, timeout: float) -> Detached:
        self._open, self._closed = False, True
        try:
            self._held.heartbeat.close()  # first: a heartbeat after the detach would look like a lost session
            if not self._session.has_space() or self._held.side.closed():
                raise KvstoreUnreachable("no detach is possible")
            async with asyncio.timeout(timeout):
                return await self._request(DETACH, Empty())
        except TimeoutError:
            raise KvstoreUnreachable(f"no reply to detach within {timeout} s") from None
        finally:
            self._release()
            self._held.close()

    def _release(self) -> None:
        self._closed = True
        self._resender.cancel()
        self._disconnect()
        self._fail(LocalError("the client is closed"))
        self._context.term()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
