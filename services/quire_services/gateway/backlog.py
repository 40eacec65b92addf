"""Backlog: what engines have sent and clients have not read yet, within one bound for the whole gateway.

Tokens that an engine sends together wait one by one: how a stream is cut into events tells nothing of drafts, nor of
an engine's end. An answer that comes faster than it is read leaves outputs behind. From ``MAX_SEPARATE_OUTPUTS`` on,
tokens without log-probabilities are joined to those of their continuation that wait already, so that such an answer
costs little more than its tokens. Log-probabilities are too many for that. When all backlogs together are larger than
the bound, the tenant that leaves most unread loses its longest: that answer ends with an error, and no other does.

Invariants: the sum of all sizes never stays above the bound; what is handed out at once is small (``PIECE_BYTES`` and
one output), and the loop serves others in between.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from quire_proto.gateway_link import Output

MAX_BACKLOG_BYTES = 64 << 20  # bytes of all backlogs
MAX_SEPARATE_OUTPUTS = 256  # outputs of one call that may wait as they came
PIECE_BYTES = 64 << 10
_OUTPUT, _LOGPROB, _ALTERNATIVE = 450, 150, 40  # bytes that each takes in this process, as measured


class Source(Protocol):
    """What an output is of."""

    tenant: str


_Source = TypeVar("_Source", bound=Source)


class Backlogs:
    """All backlogs of a gateway.

    Args:
        most: bytes that they may take together.
    """

    def __init__(self, most: int = MAX_BACKLOG_BYTES) -> None:
        self._most, self._total = most, 0
        self._unread: set[Backlog[Any]] = set()

    def changed(self, backlog: Backlog[Any], by: int) -> None:
        """A backlog has grown or shrunk."""
        self._total += by
        (self._unread.add if backlog.size else self._unread.discard)(backlog)
        if self._total > self._most:
            self._longest().give_up()

    def _longest(self) -> Backlog[Any]:
        sizes: Counter[str] = Counter()
        for backlog in self._unread:
            sizes[backlog.tenant] += backlog.size
        (tenant, _), *_ = sizes.most_common(1)
        return max((b for b in self._unread if b.tenant == tenant), key=lambda b: b.size)


class Backlog(Generic[_Source]):
    """Outputs of one call that wait to be sent, in the order in which engines sent them.

    Args:
        all: those of all calls.
        give_up: ends the call; it has been left unread for too long.

    Attributes:
        tenant: whose outputs they are.
        size: bytes that they take.
    """

    def __init__(self, all: Backlogs, give_up: Callable[[], None]) -> None:
        self.give_up = give_up
        self.tenant, self.size = "", 0
        self._all = all
        self._items: deque[list[tuple[_Source, Output]]] = deque()  # each in a box of its own, where it may grow
        self._last: dict[tuple[str, int], list[tuple[_Source, Output]]] = {}
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._items) or self._error is not None

    def put(self, source: _Source, output: Output) -> None:
        """Add what has come."""
        self.tenant = source.tenant
        for one in _by_token(output):
            self._put(source, one)
        self._wake()

    def _put(self, source: _Source, output: Output) -> None:
        size = self._join(output) if len(self._items) >= MAX_SEPARATE_OUTPUTS and not output.logprobs else 0
        if not size:
            size = _size(output)
            box = [(source, output)]
            self._items.append(box)
            self._last[output.request, output.index] = box
        self._resize(size)

    def _join(self, output: Output) -> int:
        """Add tokens to those of the same continuation, if some wait; by how many bytes it has grown."""
        box = self._last.get((output.request, output.index))
        if box is None or box[0][1].logprobs:
            return 0
        source, before = box[0]
        box[0] = source, replace(before, tokens=before.tokens + output.tokens, finish=output.finish)
        return len(output.tokens)

    def end(self, error: Exception) -> None:
        """Raise an error when all that waits has been read."""
        self._error = error
        self._wake()

    def clear(self) -> None:
        """Drop what waits."""
        self._items.clear()
        self._last.clear()
        self._resize(-self.size)

    async def piece(self, patience_s: float) -> list[tuple[_Source, Output]]:
        """What is to be sent next; nothing if nothing has come for so many seconds (0: wait for ever). Raises what
        the call ended with."""
        if self:
            await asyncio.sleep(0)
        else:
            await self._come(patience_s)
        if not self._items and self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._drain()

    def _drain(self) -> list[tuple[_Source, Output]]:
        out: list[tuple[_Source, Output]] = []
        size = 0
        while self._items and size < PIECE_BYTES:
            box = self._items.popleft()
            (_, output) = box[0]
            if self._last.get((output.request, output.index)) is box:
                del self._last[output.request, output.index]
            size += _size(output)
            out += box
        self._resize(-size)
        return out

    async def _come(self, patience_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(patience_s, self._wake) if patience_s else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resize(self, by: int) -> None:
        if by:
            self.size += by
            self._all.changed(self, by)


def _by_token(output: Output) -> Iterator[Output]:
    """Its tokens one by one. (What a beam search found stays whole.)"""
    last = len(output.tokens) - 4
    if last <= 0 or output.score:
        yield output
        return
    for at in range(0, last + 4, 4):
        logprobs = output.logprobs[at // 4 : at // 4 + 1]
        finish = output.finish if at == last else ""
        yield replace(output, tokens=output.tokens[at : at + 4], logprobs=logprobs, finish=finish)


def _size(output: Output) -> int:
    alternatives = sum(len(one.top_logprobs) for one in output.logprobs)
    return _OUTPUT + len(output.tokens) + _LOGPROB * len(output.logprobs) + _ALTERNATIVE * alternatives
