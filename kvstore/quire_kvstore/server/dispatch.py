"""Dispatch: one frame in, one reply frame out. No socket in here.

A request passes the same checks in the same order, whatever its op, and each is made here once:

    envelope -> op -> boot id and session -> order (resend, gap, reuse) -> body -> permission -> deadline -> call

Up to the order check a refused request leaves no trace. From there on an ordered request consumes its number,
whatever its reply, and the reply stays in the window for resends. A long one is executed in slices (``slices``): after
each the task is handed back, to be handled again after others. Body and deadline are judged before the first slice
only; that the session may still act is judged before each, but for what is on its way to the disk: that is done.

Nothing that arrives raises out of ``handle``: what is malformed gets an error reply (number 0 if that could not be
read), and an exception of our own becomes INTERNAL, with its traceback in the log.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import suppress
from types import GeneratorType
from typing import Any

import structlog

from quire_kvstore.errors import Refusal
from quire_kvstore.sessions.reply_window import ReplyWindow, Rest
from quire_kvstore.sessions.session import FENCED, READY, Session
from quire_kvstore.sharing.claims import STALE, Ticket
from quire_proto.limits import check_body
from quire_proto.messages import Waited
from quire_proto.op_table import OPS, Needs, Op
from quire_proto.spans import Tracer
from quire_proto.wire.codec import CodecError, decode, from_map, to_map
from quire_proto.wire.envelope import Reply, Request, decode_request
from quire_proto.wire.errors import LimitError

from .handlers import HANDLERS, SEQUENCE_OPS
from .op_spans import OpSpans
from .service import Service
from .task import Task

MAX_DEPARTED = 64
BUSY_RETRY_MS = 100

log = structlog.get_logger()


class Dispatch:
    """Executes requests on a service. ``tracer``: told of what is traced, if anything is."""

    def __init__(self, service: Service, tracer: Tracer | None = None) -> None:
        self.service, self._tracer = service, tracer
        # Windows of detached sessions: a detach whose reply was lost is resent to a session that is gone.
        self._departed: OrderedDict[bytes, ReplyWindow] = OrderedDict()

    def handle(self, task: Task, now_ms: int) -> bytes | None:
        """The reply to a request, or None: then ``task.slices`` are left of it, or it comes later (:meth:`deferred`).

        A task with slices left is to be handled again, after others.
        """
        state = self.service.state
        state.tick(now_ms)
        task.now_ms, task.blocked = now_ms, False
        try:
            if task.request is None:
                if len(task.frames) != 1:
                    raise CodecError("BAD_FRAME", f"a message is one frame, got {len(task.frames)}")
                task.request = decode_request(task.frames[0], self.service.limits.frame_bytes)
            reply = self._route(task, task.request)
        except CodecError as exc:
            state.counters.bad_frames += 1
            reply = self._error(_number(task.frames), exc.code, exc.message)
        except Refusal as exc:
            reply = self._refused(task, exc)
        except Exception:
            reply = self._failed(task)
        state.counters.messages += task.slices is None
        return reply

    def deferred(self, now_ms: int) -> list[tuple[bytes, bytes]]:
        """Replies that were deferred and are due now: (identity, frame)."""
        self.service.state.tick(now_ms)
        return [(ticket.peer, self._late(ticket, state)) for ticket, state in self.service.state.claims.drain_answers()]

    def _late(self, ticket: Ticket, state: str) -> bytes:
        if state == STALE:
            return self._error(ticket.number, "STALE_SESSION", "the session ended: attach again and recompute")
        return Reply(self.service.boot, ticket.number, "", to_map(Waited(state))).encode()

    def busy(self, frames: list[bytes]) -> bytes:
        """The reply to a message of a connection that has too many waiting: nothing of it is looked at."""
        counters = self.service.state.counters
        counters.messages += 1
        counters.busy_replies += 1
        detail: dict[str, object] = {"retry_after_ms": BUSY_RETRY_MS}
        return self._error(_number(frames), "BUSY", "too many requests of this connection wait", detail)

    def unsent(self, frames: list[bytes]) -> None:
        """A peer did not take the reply to this message: count it, and mark the session as slow."""
        self.service.state.counters.unsent_replies += 1
        with suppress(CodecError, IndexError):
            request = decode_request(frames[0], self.service.limits.frame_bytes)
            session = self.service.state.sessions.get(request.session)
            if session is not None:
                session.unsent += 1

    def _route(self, task: Task, request: Request) -> bytes | None:
        op = OPS.get(request.op)
        if op is None:
            raise Refusal("UNKNOWN_OP", f"no op {request.op[:80]!r}")
        if request.boot not in (b"", self.service.boot):
            raise Refusal("STALE_SESSION", "the kvstore was restarted: attach again and recompute")
        slices, task.slices = task.slices, None
        if op.ordered:
            return self._in_order(task, request, op)
        if slices is None:
            task.attached = self._session(request)
        # On its way to the disk it is carried out whatever became of its session: else disk and memory would differ.
        return self._execute(task, request, op, slices)

    def _in_order(self, task: Task, request: Request, op: Op[Any]) -> bytes | None:
        """Begin or continue the session's next request, or repeat what was answered to an earlier one.

        Errors are replies too, so that the number is consumed.
        """
        if not request.session:
            raise Refusal("NOT_PERMITTED", "this op needs a session: attach first")
        window, frame = self._departed.get(request.session), task.frames[0]
        if window is None or request.number >= window.next_number:
            session = self._session(request)
            assert session is not None, "it is named"
            task.attached, window = session, session.window
        repeated = window.repeated(request.number, frame)
        if repeated is not None:
            self.service.state.counters.resends += 1
            return repeated
        try:
            if window.running is not None:
                permit(op, task.attached)
            reply = self._execute(task, request, op, window.running)
        except Refusal as exc:
            reply = self._refused(task, exc)
        except Exception:
            reply = self._failed(task)
        if task.slices is not None:
            window.begin(frame, task.slices)
            return None
        assert reply is not None, "ordered ops are answered at once"
        window.keep(request.number, frame, reply)
        if request.session not in self.service.state.sessions:
            self._depart(request.session, window)
        return reply

    def _session(self, request: Request) -> Session | None:
        if not request.session:
            return None
        session = self.service.state.sessions.get(request.session)
        if session is None:
            raise Refusal("STALE_SESSION", "no such session: attach again and recompute")
        return session

    def _execute(self, task: Task, request: Request, op: Op[Any], slices: Rest | None) -> bytes | None:
        """Begin a request, or go on with it: the one place where every op is counted and timed."""
        body = self._body(task, request, op) if slices is None else None
        if self._tracer is not None and body is not None:
            task.spans = OpSpans.begin(self._tracer, op.name, body)
        began = time.perf_counter_ns()
        result: Any = slices
        if slices is None and op.name in SEQUENCE_OPS:
            result = SEQUENCE_OPS[op.name](self.service.state, task.attached, body)
        elif slices is None:
            result = HANDLERS[op.name](self.service, task, body)
        if isinstance(result, GeneratorType):
            try:
                task.blocked = next(result)
                task.slices = result
            except StopIteration as end:
                result = end.value
        spent_ns = time.perf_counter_ns() - began
        task.busy_ns += spent_ns
        self.service.state.counters.busy_us += spent_ns // 1000
        if task.slices is None:
            self.service.op_times[op.name].observe(task.busy_ns / 1e9)
        if task.slices is not None or result is None:
            return None
        if task.spans is not None:
            task.spans.end(result)
        return Reply(self.service.boot, request.number, "", to_map(result)).encode()

    def _body(self, task: Task, request: Request, op: Op[Any]) -> Any:
        """The body of a request that may begin; raises Refusal for one that may not."""
        try:
            body: Any = from_map(op.body, request.body)
            check_body(body, self.service.limits, self.service.layout.block_size)
        except CodecError as exc:
            raise Refusal(exc.code, exc.message) from None
        except LimitError as exc:
            raise Refusal("TOO_LARGE", str(exc)) from None
        permit(op, task.attached)
        waited_ms = task.now_ms - task.received_ms
        if request.deadline_ms and waited_ms > request.deadline_ms:
            raise Refusal("DEADLINE", f"{waited_ms} ms in the queue; the deadline was {request.deadline_ms} ms")
        return body

    def _depart(self, session_id: bytes, window: ReplyWindow) -> None:
        self._departed[session_id] = window
        if len(self._departed) > MAX_DEPARTED:
            self._departed.popitem(last=False)

    def _refused(self, task: Task, refusal: Refusal) -> bytes:
        assert task.request is not None, "decoded"
        self.service.state.counters.errors += 1
        if task.spans is not None:
            task.spans.fail(refusal.code)
        return self._error(task.request.number, refusal.code, refusal.message, refusal.detail)

    def _failed(self, task: Task) -> bytes:
        """The reply to a request that met a bug of ours; called while its exception is handled."""
        assert task.request is not None, "decoded"
        self.service.state.counters.internal_errors += 1
        if task.spans is not None:
            task.spans.fail("INTERNAL")
        log.exception(
            "internal_error",
            op=task.request.op[:80],
            session=task.request.session.hex(),
            number=task.request.number,
            peer=task.peer.hex(),
        )
        return self._error(task.request.number, "INTERNAL", "a bug in the kvstore; its log has the details")

    def _error(self, number: int, code: str, message: str, detail: dict[str, object] | None = None) -> bytes:
        return Reply(self.service.boot, number, code, {"message": message, "detail": detail or {}}).encode()


def permit(op: Op[Any], session: Session | None) -> None:
    """Raise Refusal if this session may not use the op."""
    if op.needs is Needs.ANY_PEER:
        return
    if session is None:
        raise Refusal("NOT_PERMITTED", "this op needs a session: attach first")
    if session.state == FENCED and op.needs is not Needs.ENDING:
        raise Refusal("STALE_SESSION", "the session was fenced: detach, attach again and recompute")
    if op.needs in (Needs.WRITABLE, Needs.ACTIVE) and session.peer is None:
        raise Refusal("NOT_PERMITTED", "this session only reads: it attached without the side socket's token")
    if op.needs is Needs.ACTIVE and session.state != READY:
        raise Refusal("NOT_PERMITTED", "the session is not ready: map the arena, then send ready")


def _number(frames: list[bytes]) -> int:
    """The number of a request whose envelope is wrong, if it can be read at all, else 0."""
    try:
        parts = decode(frames[0], len(frames[0]))
        number = parts[3]
    except (CodecError, IndexError, KeyError, TypeError):
        return 0
    return number if type(number) is int and 0 <= number < 2**63 else 0
