"""A session's side of the wire, without I/O: numbers, encoding, decoding, error mapping. Both clients use it.

Invariants:
- ordered requests are numbered 1, 2, 3, …; the others count from ``UNORDERED_FROM``, so a reply's number names one
  request of this socket, whatever its op;
- a request keeps its bytes until it is answered: a resend is the same frame;
- the newest ordered number in flight is less than ``window`` above the oldest, so that the kvstore still has the
  cached reply of every request that may be resent;
- a reply that answers nothing in flight (a second copy, an abandoned request) is dropped;
- a request that was answered BUSY stays in flight, and goes out again when the kvstore said, not before.

Bytes go in and out; sending them is the business of ``client`` and ``aio``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quire_proto.limits import BEFORE_ATTACH, check_body, check_frame
from quire_proto.messages import Attached, Limits
from quire_proto.op_table import ATTACH, READY, Op
from quire_proto.wire import errors
from quire_proto.wire.codec import CodecError, from_map, to_map
from quire_proto.wire.envelope import MAX_FRAME_BYTES, Reply, Request, decode_reply

UNORDERED_FROM = 1 << 52  # below 2^53: exact where numbers are doubles, in a proxy or a log reader as well
LONGEST_CALL_MS = 60_000
BUSY_MS, MAX_BUSY_MS = 100, 10_000  # if a BUSY does not say how long, and the longest that is believed


@dataclass(frozen=True, slots=True)
class Pending:
    """A request in flight. ``frame`` is what travels, on the first send and on every resend."""

    op: Op[Any]
    number: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a request: a reply's body, or an error."""

    pending: Pending
    value: Any = None
    error: errors.QuireError | None = None

    def result(self) -> Any:
        """The body, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class Session:
    """Numbers, requests in flight and limits of one session; also used without a session for reading."""

    def __init__(self, boot: bytes = b"", session: bytes = b"") -> None:
        self.boot = boot
        self.session = session
        self.limits: Limits = BEFORE_ATTACH
        self.block_size = 1
        self._in_flight: dict[int, Pending] = {}
        self._refused: dict[int, int] = {}
        self._next_ordered = 1
        self._next_unordered = UNORDERED_FROM

    def opened(self, attached: Attached) -> None:
        """Take over what the handshake said."""
        self.session, self.limits = attached.session, attached.limits
        self.block_size = attached.layout.block_size

    def has_space(self) -> bool:
        """Whether another ordered request fits the window."""
        oldest = min((n for n in self._in_flight if n < UNORDERED_FROM), default=self._next_ordered)
        return self._next_ordered - oldest < self.limits.window

    def request(self, op: Op[Any], body: object, timeout: float) -> Pending:
        """Number and encode a request. Raises LocalError, and then nothing was numbered.

        ``timeout`` (s) becomes the deadline before which the kvstore must have begun with it.
        """
        if self.session and op is not READY:
            check_body(body, self.limits, self.block_size)
        number = self._next_ordered if op.ordered else self._next_unordered
        deadline_ms = min(LONGEST_CALL_MS, max(1, int(timeout * 1000)))
        session = b"" if op is ATTACH else self.session
        try:
            frame = Request(self.boot, session, number, op.name, deadline_ms, to_map(body)).encode()
        except (ValueError, OverflowError) as exc:  # half of a surrogate pair, a number of more than 64 bits
            raise errors.LocalError(f"{op.name}: {exc}") from None
        check_frame(frame, self.limits)
        if op.ordered:
            assert self.has_space(), "ordered request past the window"
            self._next_ordered += 1
        else:
            self._next_unordered += 1
        pending = Pending(op, number, frame)
        self._in_flight[number] = pending
        return pending

    def in_flight(self) -> list[Pending]:
        """Unanswered requests in the order of their numbers: the order of a resend."""
        return [self._in_flight[n] for n in sorted(self._in_flight)]

    def abandon(self, pending: Pending) -> None:
        """Expect no reply any more (unordered requests only: an ordered one leaves a gap behind)."""
        assert not pending.op.ordered, "an abandoned number would be a gap"
        self._in_flight.pop(pending.number, None)
        self._refused.pop(pending.number, None)

    def drain_refused(self) -> tuple[float, list[Pending]]:
        """What was answered BUSY since the last call: in how many seconds to send what again.

        Ordered requests behind a refused one go along, for the kvstore calls them out of order.
        """
        if not self._refused:
            return 0.0, []
        refused, self._refused = self._refused, {}
        first = min((number for number in refused if number < UNORDERED_FROM), default=UNORDERED_FROM)
        again = [p for p in self.in_flight() if p.number in refused or first < p.number < UNORDERED_FROM]
        return max(refused.values()) / 1000, again

    def feed(self, frame: bytes) -> list[Answer]:
        """What a received frame answers: nothing, one request, or (an unreadable request) all of them."""
        try:
            reply = decode_reply(frame, MAX_FRAME_BYTES)
        except CodecError as exc:
            return self._all(errors.remote_error("BAD_FRAME", f"unreadable reply: {exc.message}"))
        pending = self._in_flight.get(reply.number)
        if pending is None:
            # An error without a number: the kvstore could not read a request of ours.
            return self._all(_error(reply)) if reply.code and not reply.number else []
        if reply.code == "OUT_OF_ORDER" and (pending is not self.in_flight()[0] or _outdated(reply)):
            return []  # an earlier request was lost; this one was not consumed and goes out again after it
        if reply.code == "BUSY":
            self._refused[reply.number] = _retry_after_ms(reply)
            return []  # nothing of it was looked at
        del self._in_flight[reply.number]
        self._refused.pop(reply.number, None)
        return [self._answer(pending, reply)]

    def _answer(self, pending: Pending, reply: Reply) -> Answer:
        if reply.code:
            return Answer(pending, error=_error(reply))
        if self.boot and reply.boot != self.boot:
            return Answer(pending, error=errors.StaleSession("STALE_SESSION", "the kvstore was restarted"))
        try:
            return Answer(pending, value=from_map(pending.op.reply, reply.body))
        except CodecError as exc:
            return Answer(pending, error=errors.remote_error(exc.code, f"reply to {pending.op.name}: {exc.message}"))

    def _all(self, error: errors.QuireError) -> list[Answer]:
        waiting = self.in_flight()
        self._in_flight.clear()
        return [Answer(pending, error=error) for pending in waiting]


def _outdated(reply: Reply) -> bool:
    """Whether an OUT_OF_ORDER was overtaken by the answer to the request that it missed."""
    detail = reply.body.get("detail")
    expected = detail.get("expected") if isinstance(detail, dict) else None
    return type(expected) is int and 0 < expected < reply.number


def _retry_after_ms(reply: Reply) -> int:
    detail = reply.body.get("detail")
    asked = detail.get("retry_after_ms") if isinstance(detail, dict) else None
    return min(asked, MAX_BUSY_MS) if type(asked) is int and asked >= 0 else BUSY_MS


def _error(reply: Reply) -> errors.RemoteError:
    message, detail = reply.body.get("message"), reply.body.get("detail")
    return errors.remote_error(reply.code, str(message or ""), detail if isinstance(detail, dict) else None)
