"""Generations: what the gateway knows of each request it has sent to an engine, and the answers coming back.

A ``Generation`` is one prompt with its n continuations: all that a ``generate`` message needs, and what has been
received so far. What one engine was asked for in one message is an ``Attempt``. When its engine is gone or has given it
back, a continuation goes on in another attempt, from the tokens that have come. A ``Call`` is one HTTP request: one
generation, or several for a batch of prompts, whose outputs wait in one backlog, in the order engines sent them.

Invariants: a continuation ends once (finished by an engine, cut by us, or failed with its call), and comes from one
attempt at a time: outputs after its end, or of an attempt before, are dropped; when a call is closed, everything
unfinished has been aborted at its engines. One event loop, no locks.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from quire_proto.gateway_link import HANDOFF, LOSS, Generate, Output, Sampling, TokenLogprob, link_name
from quire_proto.spans import Span
from quire_proto.wire.u32 import pack_u32, unpack_u32
from quire_services.gateway.http.errors import (
    ApiError,
    ClientGone,
    answer_unread,
    engine_error,
    not_begun,
    share_too_small,
)
from quire_services.gateway.turns.follower_word import FollowerWord

from .backlog import Backlog, Backlogs

Arrival = tuple["Generation", Output]
KVSTORE_LOST = "kvstore_lost"
MIDDLE_PRIORITY = 1 << 30  # what clients call 0: on the link there is nothing below zero


class Carrier(Protocol):
    """What carries an attempt: the engine it was sent to."""

    def abort(self, attempt: Attempt, index: int | None) -> None:
        """Stop one continuation, or all of them."""

    def heard(self, generation: Generation, index: int) -> None:
        """Tokens of a continuation have come from there."""

    def finished(self, generation: Generation, index: int, finish: str) -> None:
        """A continuation that came from there has ended."""

    def forget(self, attempt: Attempt) -> None:
        """No continuation is to come from there any more."""


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What an engine says of a continuation that it gives back.

    Attributes:
        computed: tokens of it that are computed.
        offer: the name of the offer of that, if there is one.
        to: the engine that it is made to.
    """

    computed: int
    offer: bytes = b""
    to: Carrier | None = None


@dataclass(slots=True, eq=False)
class Attempt:
    """What one engine was asked for of a generation.

    Attributes:
        asked: continuations that it was asked to hand over, to which engine, and when.
        id: name on the link: the request's id, so that an engine's log says it, and something of ours, so that clients
            cannot collide; of this attempt alone, so that nothing of another is taken for it.
        open: continuations that are to come from there and have not ended.
        received: it has arrived there.
        admitted: an output has come, of which the first says what was cached.
        answered: a token has come.
        handed: tokens that the engine before had computed when it gave it back, if it did.
    """

    generation: Generation
    open: set[int]
    carrier: Carrier
    id: str
    received: bool = False
    admitted: bool = False
    answered: bool = False
    asked: dict[int, tuple[Carrier | None, float]] = field(default_factory=dict)
    handed: int | None = None

    @property
    def width(self) -> int:
        """Continuations that the engine works on: of a beam search all beams, however few are answered with."""
        return max(len(self.open), self.generation.sampling.beam_width) if self.open else 0

    def deliver(self, output: Output) -> bool:
        """Take an output of the engine; whether its continuation must go on elsewhere."""
        if output.index not in self.open:
            return False
        if output.finish == "abort" or output.code == KVSTORE_LOST:  # a continuation that we aborted is not open
            self.lose(output.index)
            to, _ = self.asked.pop(output.index, (None, 0.0))
            self.generation.take_back(output, to)
            return True
        if not self.admitted:
            self.generation.admit(output, self.handed)
        self.admitted = True
        if output.tokens:
            self.answered = True
            self.carrier.heard(self.generation, output.index)
        self.generation.take(output)
        return False

    def lose(self, index: int) -> None:
        """A continuation comes from there no longer."""
        self.open.discard(index)
        self.generation.attempts.pop(index, None)
        if not self.open:
            self.carrier.forget(self)


@dataclass(slots=True, eq=False)
class Generation:
    """One prompt and its ``n`` continuations.

    Attributes:
        emitted: tokens received so far, by continuation.
        open: continuations that have not ended.
        given_back: those of them that an engine has given back, until another is asked.
        attempts: where the open ones come from; those that no engine works on are missing.
        deaths: engines that died before they gave it a token, since the last that it got, by continuation.
        engines_lost: engines that died under it in all, by continuation.
        started: a first token has come.
        cached_tokens: prompt tokens that came from the cache, as the first engine said that has said anything of it;
            None before. What it has computed is a hit for the next, and is none of this.
        prompt_logprobs: of the tokens of the prompt but the first, if they are wanted, as far as they have come.
        priority: among the tenant's, lower first.
        salt: of the cache, so that it shares nothing with generations of another.
        engines: names of the engines that something of it was sent to, the first one first.
        last_at: name of the engine that each continuation was sent to last.
        moves: attempts after the first, so many for each continuation.
        recomputed: tokens that were computed again for them, as far as their engines have said.
        recomputed_handed: those of them that an engine had handed over.
        begun, heard: when the first and the last tokens came, by continuation and the monotonic clock; 0 before.
    """

    tenant: str
    tokens: Sequence[int]
    sampling: Sampling
    n: int
    first_choice: int
    call: Call
    emitted: list[array[int]] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    given_back: dict[int, GivenBack] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    deaths: list[int] = field(default_factory=list)
    engines_lost: list[int] = field(default_factory=list)
    started: bool = False
    cached_tokens: int | None = None
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    salt: str = ""
    priority: int = 0
    engines: dict[str, None] = field(default_factory=dict)
    last_at: dict[int, str] = field(default_factory=dict)
    moves: int = 0
    recomputed: int = 0
    recomputed_handed: int = 0
    begun: array[float] = field(init=False)
    heard: array[float] = field(init=False)

    def __post_init__(self) -> None:
        self.begun, self.heard = (array("d", bytes(8 * self.n)) for _ in range(2))
        self.emitted = [array("I") for _ in range(self.n)]
        self.open = set(range(self.n))
        self.deaths, self.engines_lost = [0] * self.n, [0] * self.n

    def parts(self) -> list[list[int]]:
        """The continuations that no engine works on, those together that one is to be asked for together: all before
        the first token, which share the prompt; later each, for it has tokens of its own."""
        missing = sorted(self.open - self.attempts.keys())
        whole = len(missing) == self.n and not any(self.emitted)
        return [missing] if whole else [[index] for index in missing]

    def attempt(self, part: list[int], carrier: Carrier) -> Attempt:
        """Have an engine work on one of ``parts``."""
        attempt = Attempt(self, set(part), carrier, link_name(self.call.request_id, secrets.token_hex(8)))
        self.attempts |= dict.fromkeys(part, attempt)
        return attempt

    def message(self, attempt: Attempt, weight: int) -> Generate:
        """An attempt, as it is sent to its engine."""
        first, sampling = min(attempt.open), self.sampling
        if sampling.prompt_logprobs:
            if first or self.emitted[0]:
                sampling = replace(sampling, prompt_logprobs=0)  # they have come
            else:
                self.prompt_logprobs = []  # of an engine that sent some of them
        offer, computed, cause = self._before(first, attempt)
        return Generate(
            attempt.id,
            self.tenant,
            pack_u32(self.tokens),
            sampling,
            len(attempt.open),
            first,
            priority=MIDDLE_PRIORITY + self.priority,
            emitted=pack_u32(self.emitted[first]),
            salt=self.salt,
            weight=weight,
            offer=offer,
            computed=computed,
            cause=cause,
            trace=self.call.span.context if self.call.span else "",
        )

    def admit(self, output: Output, handed: int | None) -> None:
        """Take the first output of an attempt; ``handed``: tokens of it that were computed where it was given back."""
        if self.cached_tokens is None:
            self.cached_tokens = output.cached_tokens
        elif not output.tokens and not output.finish:
            known = len(self.tokens) + len(self.emitted[output.index]) if handed is None else handed
            again = max(0, known - output.cached_tokens)
            self.recomputed += again
            self.recomputed_handed += again if handed is not None else 0

    def _before(self, index: int, attempt: Attempt) -> tuple[bytes, int, str]:
        """What an engine has to know of the one before: its offer, what that had computed, and why it is left."""
        told = self.given_back.pop(index, None)
        if told is None:
            known = len(self.tokens) + len(self.emitted[index]) - 1 if self.emitted[index] else 0
            return b"", known, LOSS if known else ""
        for other, same in self.given_back.items():
            if same.offer == told.offer:  # one sequence, and this attempt has it
                self.given_back[other] = GivenBack(0)
        if told.offer and told.to is not attempt.carrier:  # that one is gone, and what it was offered is lost
            return b"", told.computed, LOSS
        attempt.handed = told.computed
        return told.offer, told.computed, HANDOFF

    def take_back(self, output: Output, to: Carrier | None) -> None:
        """An engine gives a continuation back, handed to another one or not."""
        if output.code != KVSTORE_LOST:
            self.given_back[output.index] = GivenBack(output.computed, output.offer, to)

    def take(self, output: Output) -> None:
        """Take an output of the attempt that its continuation comes from."""
        index = output.index
        if output.finish == "error":
            error = engine_error(output.code, output.message, self.call.constrained_by)
            if output.missing and (again_s := self.call.follower.claim(self.tenant, output.missing)):
                error = share_too_small(output.message, again_s)
            self.call.fail(error)
            return
        self.prompt_logprobs += output.prompt_logprobs
        if not output.tokens and not output.finish:
            return
        self.started = True
        self.emitted[index].extend(unpack_u32(output.tokens))
        self.deaths[index] = 0
        if output.finish:
            self._end(index, output.finish)
        self.call.backlog.put(self, output)

    def cut(self, index: int) -> None:
        """End one continuation here: the client needs no more of it."""
        if index in self.open:
            if attempt := self.attempts.get(index):
                attempt.carrier.abort(attempt, index)
            self._end(index, "stop")

    def close(self, finish: str) -> None:
        """End all continuations that are still open."""
        for attempt in set(self.attempts.values()):
            attempt.carrier.abort(attempt, None)
        for index in tuple(self.open):
            self._end(index, finish)

    def _end(self, index: int, finish: str) -> None:
        self.open.discard(index)
        if attempt := self.attempts.get(index):
            attempt.carrier.finished(self, index, finish)
            attempt.lose(index)


@dataclass(slots=True, eq=False)
class Call:
    """One HTTP request's generations and the backlog of their outputs.

    Args:
        backlogs: those of all calls.
        constrained_by: the parameter that holds its answers to a grammar, if one does.
        bound: the grammar was asked for, and is not only a help.
        request_id: of its request.
        arrived: when that came, by the monotonic clock.
        span: its span, if it is traced.
        error: what has ended it, if something has.
        follower: knows whether the cluster has room where this node's share has none.
    """

    backlogs: Backlogs = field(default_factory=Backlogs)
    constrained_by: str = ""
    bound: bool = False
    request_id: str = ""
    generations: list[Generation] = field(default_factory=list)
    arrived: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.monotonic)
    span: Span | None = None
    error: ApiError | ClientGone | None = None
    follower: FollowerWord = field(default_factory=FollowerWord)
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

    @property
    def engines(self) -> dict[str, None]:
        """Names of the engines that something of it was sent to, in order."""
        return {name: None for generation in self.generations for name in generation.engines}

    @property
    def moves(self) -> int:
        """How often a continuation has gone on in another attempt."""
        return sum(generation.moves for generation in self.generations)

    @property
    def recomputed(self) -> int:
        """Tokens that were computed again for these."""
        return sum(generation.recomputed for generation in self.generations)

    @property
    def recomputed_handed(self) -> int:
        """Those of them that an engine had handed over."""
        return sum(generation.recomputed_handed for generation in self.generations)

    def begin_within(self, seconds: float, spent: float) -> None:
        """Fail if nothing has come of any answer when ``seconds`` are over, of which some are ``spent`` already."""
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(max(0.0, seconds - spent), self._not_begun, seconds)

    def _not_begun(self, seconds: float) -> None:
        if not any(generation.started for generation in self.generations):
            self.fail(not_begun(seconds))

    def fail(self, error: ApiError | ClientGone) -> None:
        """End the whole call: what is unfinished is aborted, the reader of the outputs gets ``error`` after them."""
        if self.error is None:
            self.error = error
            self._abort("abort" if isinstance(error, ClientGone) else "error")
            self.backlog.end(error)

    def hang_up(self) -> None:
        """The client is gone."""
        self.backlog.clear()
        self.fail(ClientGone())

    def close(self) -> None:
        """Abort whatever has not ended, drop what was not read."""
        if self._patience is not None:
            self._patience.cancel()
        self._abort("abort")
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

    def _abort(self, finish: str) -> None:
        for generation in self.generations:
            generation.close(finish)
