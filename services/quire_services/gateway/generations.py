"""Generations: what the gateway knows of each request it has sent to an engine, and the answers coming back.

A ``Generation`` is one prompt with its n continuations: all that a ``generate`` message needs, and what has been
received so far, so that it could be sent again to another engine. A ``Call`` is one HTTP request: one generation, or
several for a batch of prompts, whose outputs wait in one backlog, in the order engines sent them.

Invariants: a continuation ends once (finished by the engine, cut by us, or failed with its call); outputs after its
end are dropped; when a call is closed, everything unfinished has been aborted at its engine. One event loop, no
locks.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from quire_proto.gateway_link import Generate, Output, Sampling, TokenLogprob
from quire_proto.wire.u32 import pack_u32, unpack_u32
from quire_services.gateway.http.errors import ApiError, ClientGone, answer_unread, engine_error, not_begun, unavailable

from .backlog import Backlog, Backlogs

Arrival = tuple["Generation", Output]
MIDDLE_PRIORITY = 1 << 30  # what clients call 0: on the link there is nothing below zero


class Carrier(Protocol):
    """What carries a generation: the engine it was sent to."""

    def abort(self, generation: Generation, index: int | None) -> None:
        """Stop one continuation, or all of them."""

    def forget(self, generation: Generation) -> None:
        """No continuation is open any more."""


@dataclass(slots=True, eq=False)
class Generation:
    """One prompt and its ``n`` continuations.

    Attributes:
        id: name on the link; ours, so that clients cannot collide.
        emitted: tokens received so far, by continuation.
        open: continuations that have not ended.
        started: a first output has come.
        cached_tokens: prompt tokens that came from the cache.
        prompt_logprobs: of the tokens of the prompt but the first, if they are wanted, as far as they have come.
        priority: among the tenant's, lower first.
        salt: of the cache, so that it shares nothing with generations of another.
        carrier: the engine it was sent to, while a continuation is open.
        engine: that engine's name, for good.
    """

    tenant: str
    tokens: Sequence[int]
    sampling: Sampling
    n: int
    first_choice: int
    call: Call
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    emitted: list[array[int]] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    started: bool = False
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    salt: str = ""
    priority: int = 0
    carrier: Carrier | None = None
    engine: str = ""

    def __post_init__(self) -> None:
        self.emitted = [array("I") for _ in range(self.n)]
        self.open = set(range(self.n))

    def message(self, weight: int) -> Generate:
        """The request as it is sent to an engine."""
        return Generate(
            self.id,
            self.tenant,
            pack_u32(self.tokens),
            self.sampling,
            self.n,
            priority=MIDDLE_PRIORITY + self.priority,
            salt=self.salt,
            weight=weight,
        )

    def deliver(self, output: Output) -> None:
        """Take an output of the engine."""
        if output.index not in self.open:
            return
        if output.finish == "error":
            self.call.fail(engine_error(output.code, output.message, self.call.constrained_by))
            return
        if output.finish == "abort":  # not by us: a continuation that we aborted is no longer open
            self.call.fail(unavailable("the engine stopped before the answer was complete"))
            return
        if output.index == 0:  # the others share the prompt of the first
            self.cached_tokens = max(self.cached_tokens, output.cached_tokens)
        self.prompt_logprobs += output.prompt_logprobs
        self.started = True
        if not output.tokens and not output.finish:
            return
        self.emitted[output.index].extend(unpack_u32(output.tokens))
        if output.finish:
            self._end(output.index)
        self.call.backlog.put(self, output)

    def cut(self, index: int) -> None:
        """End one continuation here: the client needs no more of it."""
        if index in self.open:
            if self.carrier is not None:
                self.carrier.abort(self, index)
            self._end(index)

    def close(self) -> None:
        """End all continuations that are still open."""
        if self.open:
            if self.carrier is not None:
                self.carrier.abort(self, None)
            for index in tuple(self.open):
                self._end(index)

    def _end(self, index: int) -> None:
        self.open.discard(index)
        if not self.open and self.carrier is not None:
            self.carrier.forget(self)
            self.carrier = None


@dataclass(slots=True, eq=False)
class Call:
    """One HTTP request's generations and the backlog of their outputs.

    Args:
        backlogs: those of all calls.
        constrained_by: the parameter that holds its answers to a grammar, if one does.
    """

    backlogs: Backlogs = field(default_factory=Backlogs)
    constrained_by: str = ""
    generations: list[Generation] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    failed: bool = False
    _patience: asyncio.TimerHandle | None = None
    backlog: Backlog[Generation] = field(init=False)

    def __post_init__(self) -> None:
        self.backlog = Backlog(self.backlogs, self._unread)

    def add(
        self, tenant: str, tokens: Sequence[int], sampling: Sampling, n: int, salt: str = "", priority: int = 0
    ) -> Generation:
        """One more prompt; its choices are numbered after those of the prompts before it."""
        first = n * len(self.generations)
        generation = Generation(tenant, tokens, sampling, n, first, self, salt=salt, priority=priority)
        self.generations.append(generation)
        return generation

    def begin_within(self, seconds: float, spent: float) -> None:
        """Fail if nothing has come of any answer when ``seconds`` are over, of which some are ``spent`` already."""
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(max(0.0, seconds - spent), self._not_begun, seconds)

    def _not_begun(self, seconds: float) -> None:
        if not any(generation.started for generation in self.generations):
            self.fail(not_begun(seconds))

    def fail(self, error: ApiError | ClientGone) -> None:
        """End the whole call: what is unfinished is aborted, the reader of the outputs gets ``error`` after them."""
        if not self.failed:
            self.failed = True
            self._abort()
            self.backlog.end(error)

    def hang_up(self) -> None:
        """The client is gone."""
        self.backlog.clear()
        self.fail(ClientGone())

    def close(self) -> None:
        """Abort whatever has not ended, drop what was not read."""
        if self._patience is not None:
            self._patience.cancel()
        self._abort()
        self.backlog.clear()

    async def outputs(self, grace_s: float = 0, ping_s: float = 0) -> AsyncIterator[list[Arrival]]:
        """Outputs until every continuation has ended, those together that have come together; none of them when
        nothing has come for ``grace_s`` at first, or for ``ping_s`` later (0: wait). Raises ApiError or ClientGone."""
        patience_s = grace_s
        while self.backlog or any(generation.open for generation in self.generations):
            yield await self.backlog.piece(patience_s)
            patience_s = ping_s

    def _unread(self) -> None:
        self.backlog.clear()
        self.fail(answer_unread())

    def _abort(self) -> None:
        for generation in self.generations:
            generation.close()
