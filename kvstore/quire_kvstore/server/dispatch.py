"""Dispatch: one frame in, one reply frame out. No socket in here.

A request passes the same checks in the same order, whatever its op, and each is made here once:

    envelope -> op -> boot id and session -> order (resend, gap, reuse) -> body -> permission -> deadline -> call

Up to the order check a refused request leaves no trace. From there on an ordered request consumes its number,
whatever its reply, and the reply stays in the window for resends. A long one is executed in slices (``staging``): after
each the request is handed back, to be handled again after others. Body and deadline are judged before the first slice
only; that the session may still act is judged before each, but for what is on its way to the disk: that is done.

Nothing that arrives raises out of ``handle``: what is malformed gets an error reply (number 0 if that could not be
read), and an exception of our own becomes INTERNAL, with its traceback in the log.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from quire_kvstore.errors import Refusal
from quire_kvstore.sessions.reply_window import ReplyWindow, Slices
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.claims import STALE, Ticket
from quire_proto.codec import CodecError, from_map, to_map, unpack
from quire_proto.envelope import Reply, Request, decode_request
from quire_proto.errors import LimitError
from quire_proto.limits import check_body
from quire_proto.messages import Waited

from .op_table import OPS, Op, check
from .service import Service

MAX_DEPARTED = 64
MAX_WAIT_MS = 60_000
RETRY_AFTER_MS = 100
AGAIN, LATER = b"", b"\xc1"  # no replies: one is empty, the other is no MessagePack

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Left:
    """The slices that are left of a request, and whether the next one waits for something."""

    slices: Slices
    waits: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    """A message that is to be handled again. ``slices``: what is left of it; of an ordered op the window knows."""

    frame: bytes
    request: Request
    slices: Slices


class Dispatch:
    """Executes requests on a service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        # Windows of detached sessions: a detach whose reply was lost is resent to a session that is gone.
        self._departed: OrderedDict[bytes, ReplyWindow] = OrderedDict()
        # Messages that are to be handled again, by connection and frame: what need not be done twice.
        self._kept: dict[tuple[bytes, int], _Kept] = {}

    def handle(self, identity: bytes, frames: list[bytes], received_ms: int, now_ms: int) -> bytes | None:
        """The reply to a message, or None if it comes later (:meth:`deferred`).

        ``AGAIN``: it is to be handled again, after others; ``LATER``: the same, but it waits for something.

        Args:
            identity: the ROUTER's name of the peer.
            frames: the message without the identity; one frame if it is valid.
            received_ms, now_ms: when it was taken from the socket, and now.
        """
        counters = self.service.store.counters
        counters.messages += 1
        self.service.now_ms = now_ms
        self.service.store.tick(now_ms)
        try:
            if len(frames) != 1:
                raise CodecError("BAD_FRAME", f"a message is one frame, got {len(frames)}")
            kept = self._kept.pop((identity, id(frames[0])), None)
            request = decode_request(frames[0], self.service.limits.frame_bytes) if kept is None else kept.request
        except CodecError as exc:
            counters.bad_frames += 1
            return self._error(_number(frames), exc.code, exc.message)
        try:
            self.service.ticket = Ticket(identity, request.number)
            self.service.until_ms = received_ms + min(request.deadline_ms or MAX_WAIT_MS, MAX_WAIT_MS)
            slices = None if kept is None else kept.slices
            reply = self._route(request, frames[0], now_ms - received_ms, slices)
            if not isinstance(reply, _Left):
                return reply
            counters.messages -= 1  # it is counted when it ends
            self._kept[identity, id(frames[0])] = _Kept(frames[0], request, reply.slices)
            return LATER if reply.waits else AGAIN
        except Refusal as exc:
            counters.errors += 1
            return self._error(request.number, exc.code, exc.message, exc.detail)
        except Exception:
            counters.internal_errors += 1
            log.exception("internal_error", op=request.op[:80], peer=identity.hex())
            return self._error(request.number, "INTERNAL", "a bug in the kvstore; its log has the details")

    def deferred(self, now_ms: int) -> list[tuple[bytes, bytes]]:
        """Replies that were deferred and are due now: (identity, frame)."""
        self.service.store.tick(now_ms)
        return [(ticket.peer, self._late(ticket, state)) for ticket, state in self.service.store.take_answers()]

    def _late(self, ticket: Ticket, state: str) -> bytes:
        if state == STALE:
            return self._error(ticket.number, "STALE_SESSION", "the session ended: attach again and recompute")
        return Reply(self.service.boot, ticket.number, "", to_map(Waited(state))).encode()

    def busy(self, frames: list[bytes]) -> bytes:
        """The reply to a message of a connection that has too many waiting: nothing of it is looked at."""
        counters = self.service.store.counters
        counters.messages += 1
        counters.busy_replies += 1
        detail: dict[str, object] = {"retry_after_ms": RETRY_AFTER_MS}
        return self._error(_number(frames), "BUSY", "too many requests of this connection wait", detail)

    def unsent(self, frames: list[bytes]) -> None:
        """A peer did not take the reply to this message: count it, and mark the session as slow."""
        self.service.store.counters.unsent_replies += 1
        with suppress(CodecError, IndexError):
            request = decode_request(frames[0], self.service.limits.frame_bytes)
            session = self.service.store.state.sessions.get(request.session)
            if session is not None:
                session.unsent += 1

    def _route(self, request: Request, frame: bytes, waited_ms: int, slices: Slices | None) -> bytes | _Left | None:
        op = OPS.get(request.op)
        if op is None:
            raise Refusal("UNKNOWN_OP", f"no op {request.op[:80]!r}")
        if request.boot not in (b"", self.service.boot):
            raise Refusal("STALE_SESSION", "the kvstore was restarted: attach again and recompute")
        if slices is not None and not op.ordered:
            # On its way to the disk it is carried out whatever became of who asked: else disk and memory would differ.
            return self._go_on(request, slices)
        if not op.ordered:
            return self._reply(request, op, self._session(request), waited_ms, None)
        window = self._window(request)
        repeated = window.repeated(request.number, frame)
        if repeated is not None:
            self.service.store.counters.resends += 1
            return repeated
        reply = self._answer(request, op, self._session(request), waited_ms, window.running)
        if isinstance(reply, _Left):
            window.begin(frame, reply.slices)
            return reply
        assert reply is not None, "ordered ops are answered at once"
        window.keep(request.number, frame, reply)
        if self.service.store.state.sessions.get(request.session) is None:
            self._depart(request.session, window)
        return reply

    def _session(self, request: Request) -> Session | None:
        if not request.session:
            return None
        session = self.service.store.state.sessions.get(request.session)
        if session is None:
            raise Refusal("STALE_SESSION", "no such session: attach again and recompute")
        return session

    def _window(self, request: Request) -> ReplyWindow:
        if not request.session:
            raise Refusal("NOT_PERMITTED", "this op needs a session: attach first")
        departed = self._departed.get(request.session)
        if departed is not None and request.number < departed.next_number:
            return departed
        session = self._session(request)
        assert session is not None, "the session was named"
        return session.window

    def _answer(
        self, request: Request, op: Op, session: Session | None, waited_ms: int, running: Slices | None
    ) -> bytes | _Left | None:
        """The reply to an ordered request, or the slices that are left of it: errors are replies too, so that the
        number is consumed."""
        try:
            return self._reply(request, op, session, waited_ms, running)
        except Refusal as exc:
            self.service.store.counters.errors += 1
            return self._error(request.number, exc.code, exc.message, exc.detail)
        except Exception:
            self.service.store.counters.internal_errors += 1
            log.exception("internal_error", op=request.op, session=request.session.hex())
            return self._error(request.number, "INTERNAL", "a bug in the kvstore; its log has the details")

    def _reply(
        self, request: Request, op: Op, session: Session | None, waited_ms: int, running: Slices | None
    ) -> bytes | _Left | None:
        body = None if running else self._body(request, op)
        check(op, session)
        if not running and request.deadline_ms and waited_ms > request.deadline_ms:
            raise Refusal("DEADLINE", f"{waited_ms} ms in the queue; the deadline was {request.deadline_ms} ms")
        return self._go_on(request, running or (lambda: op.handler(self.service, session, body)))

    def _go_on(self, request: Request, work: Slices | Callable[[], Any]) -> bytes | _Left | None:
        """Begin a request, or do its next slice; its reply if that was all."""
        result = self._call(request.op, work)
        if result is None or isinstance(result, _Left):
            return result
        return Reply(self.service.boot, request.number, "", to_map(result)).encode()

    def _body(self, request: Request, op: Op) -> Any:
        try:
            body: Any = from_map(op.body, request.body)
            check_body(body, self.service.limits, self.service.layout.block_size)
        except CodecError as exc:
            raise Refusal(exc.code, exc.message) from None
        except LimitError as exc:
            raise Refusal("TOO_LARGE", str(exc)) from None
        return body

    def _call(self, name: str, work: Slices | Callable[[], Any]) -> Any:
        """Execute, if in slices then one: the one place where every op is counted and timed."""
        began = time.perf_counter_ns()
        result = work() if callable(work) else work
        if isinstance(result, Generator):
            try:
                result = _Left(result, next(result))
            except StopIteration as end:
                result = end.value
        self.service.op_counts[name] += not isinstance(result, _Left)
        self.service.store.counters.busy_us += (time.perf_counter_ns() - began) // 1000
        return result

    def _depart(self, session_id: bytes, window: ReplyWindow) -> None:
        self._departed[session_id] = window
        if len(self._departed) > MAX_DEPARTED:
            self._departed.popitem(last=False)

    def _error(self, number: int, code: str, message: str, detail: dict[str, object] | None = None) -> bytes:
        return Reply(self.service.boot, number, code, {"message": message, "detail": detail or {}}).encode()


def _number(frames: list[bytes]) -> int:
    """The number of a request whose envelope is wrong, if it can be read at all, else 0."""
    try:
        parts = unpack(frames[0], len(frames[0]))
        number = parts[3]
    except (CodecError, IndexError, KeyError, TypeError):
        return 0
    return number if type(number) is int and 0 <= number < 2**63 else 0
