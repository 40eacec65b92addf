"""Requests and their sequences, as the engine sees them.

A ``Request`` is what a client asked for; its continuations are ``Sequence`` objects, one branch each. A request with
n > 1 starts as one sequence that holds the prompt and is forked once the prompt is computed. A sequence mirrors what
the kvstore holds for it (block table, fill mark, sealed blocks) and owns what only the engine knows (tokens).

``computed`` counts tokens whose K and V are written; between steps it is below ``len(tokens)`` by one for a
decoding sequence, by more while the prompt is still being computed. Where a device works beside the host, steps in
flight have ``launched`` more than that, and a token may be coming that only the device knows.
"""

from __future__ import annotations

import secrets
import time
from array import array
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quire_engine.grammar.grammar import Grammar, GrammarState
from quire_kv import DomainChain
from quire_proto.gateway_link import Generate, Sampling, TokenLogprob
from quire_proto.wire.u32 import unpack_u32

from .adjustments import Adjustments
from .draft import Draft
from .request_traces import RequestTrace
from .sample_row import SampleRow

NO_WAITER = 1 << 62  # less urgent than any priority
BACKGROUND = 1 << 31  # the priority of what no client waits for
_UNSCORED = TokenLogprob(0.0)
GIVEN_BACK = 0x7FFF_FFFF  # no block: what reads one fails
EMPTY_TABLE: npt.NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(slots=True, eq=False)
class Request:
    """One request and what is known of it before it runs.

    Attributes:
        index: number of its first continuation.
        emitted: what its only continuation has generated elsewhere.
        stop_ids: tokens that end a continuation.
        prompt: the tokens given, packed as they came.
        list_generation: that of the list of publications which ``publication`` was looked for in.
        longest: tokens a continuation may reach, prompt included: what model and pool can hold.
        aborted: continuations the client no longer wants.
        salt: what it may share it shares with requests of the same salt only.
        grammar: what its continuations must be, once that is compiled.
        adjustments: what it wants done to its logits, if anything.
        prompt_logprobs: of the tokens of the prompt but the first, if it wants them: as far as they are computed.
        arrived, admitted: when it came, and when it first got blocks, by the monotonic clock.
        trace: its spans, if it is traced.
    """

    id: str
    tenant: str
    prompt: bytes
    sampling: Sampling
    n: int
    priority: int
    emitted: array[int]
    stop_ids: frozenset[int]
    publication: str = ""
    publication_generation: int = 0
    list_generation: int = 0
    cached_tokens: int = -1
    longest: int = 0
    aborted: set[int] = field(default_factory=set)
    forked: bool = False
    salt: str = ""
    grammar: Grammar | None = None
    adjustments: Adjustments | None = None
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    index: int = 0
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    trace: RequestTrace | None = None

    @property
    def numbers(self) -> range:
        """Its continuations."""
        return range(self.index, self.index + self.n)

    @classmethod
    def of(cls, message: Generate, eos_ids: frozenset[int]) -> Request:
        """The request of a ``generate`` message. Raises ValueError for a bias without its token."""
        own = frozenset(unpack_u32(message.sampling.stop_token_ids))
        scored = message.sampling.prompt_logprobs > 0
        return cls(
            id=message.request,
            tenant=message.tenant,
            prompt=message.tokens,
            sampling=message.sampling,
            n=message.n,
            index=message.index,
            priority=message.priority,
            emitted=unpack_u32(message.emitted),
            stop_ids=own if message.sampling.ignore_eos else own | eos_ids,
            salt=secrets.token_hex(16) if scored else message.salt,  # what is found cached has no logits
            prompt_logprobs=[_UNSCORED] * (len(message.tokens) // 4 - 1) if scored else [],
            adjustments=Adjustments.of(message.sampling, message.tokens),
        )


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """One branch of a request.

    Attributes:
        id: its name towards the kvstore (u32, unique among the session's live sequences; new at each admission).
        index: which continuation of the request it is.
        tokens: prompt and generated tokens; those of ``chain``, where it names them.
        table: physical block ids.
        computed: tokens whose K and V are written and seen complete.
        sealed: leading full blocks already sealed (or matched), or about to be.
        behind: leading blocks that it gave back, as nothing reads them any more; their entries are ``GIVEN_BACK``.
        promised: tokens it had when it got its table: others may wait for what it computes of them.
        chain: digests of the full blocks of ``tokens``, in the tenant's own domain.
        writable: the kvstore has granted writing at ``computed``; False after a fork until extended.
        registered: the kvstore knows ``id`` as that of a sequence which waits, or may become the one to compute.
        may_wait: whether it may wait for what another sequence is computing; False once it has waited too long.
        inherited: the most urgent priority of those that wait for what this sequence computes.
        arrival: order of admission; the newest is preempted first.
        in_flight: tokens launched and not yet seen complete.
        coming: tokens drawn on the device that ``tokens`` lacks yet.
        buffer: what the table grows into, if it is the beginning of that.
        slots: batch slots kept for it, branches not forked yet included.
        slot_promised: another tenant's sequence gave a slot up for it.
        ended: its blocks are given up; what is still in flight for it counts for nothing.
        grammar: where its generated tokens have led in its request's grammar, if that has one.
        handed: name of the offer that another engine makes of it, until it is adopted.
        had: tokens of it that were computed before, when it has no table; ``cause``: why that was given up.
    """

    id: int
    request: Request
    index: int
    tokens: array[int]
    chain: DomainChain
    arrival: int
    table: npt.NDArray[np.int32] = field(default_factory=lambda: EMPTY_TABLE)
    computed: int = 0
    sealed: int = 0
    behind: int = 0
    promised: int = 0
    writable: bool = False
    in_flight: int = 0
    coming: int = 0
    ended: bool = False
    registered: bool = False
    may_wait: bool = True
    inherited: int = NO_WAITER
    slots: int = 1
    slot_promised: bool = False
    buffer: npt.NDArray[np.int32] = field(default_factory=lambda: EMPTY_TABLE)
    grammar: GrammarState | None = None
    handed: bytes = b""
    had: int = 0
    cause: str = ""

    @property
    def launched(self) -> int:
        """Tokens computed or in flight: the position of the next one to compute."""
        return self.computed + self.in_flight

    @property
    def priority(self) -> int:
        """How urgent it is, lower first: its waiters' urgency counts until its known tokens are computed."""
        own = self.request.priority
        return self.inherited if self.inherited < own and self.remaining > 1 else own

    @property
    def remaining(self) -> int:
        """Tokens to launch before the next one can be sampled."""
        return len(self.tokens) + self.coming - self.launched

    @property
    def generated(self) -> int:
        """Tokens generated so far, those emitted elsewhere included."""
        return len(self.tokens) - len(self.request.prompt) // 4

    @property
    def unscored(self) -> int:
        """Tokens to launch of which the next one's log-probability is wanted."""
        return max(0, len(self.request.prompt_logprobs) - self.launched)

    @property
    def decoding(self) -> bool:
        """Only the newest token is still to be computed."""
        return self.generated + self.coming > 0 and self.remaining == 1

    @property
    def goes_on(self) -> bool:
        """Whether the token drawn next can itself be computed before it is known: it forks nothing and is not the
        last for certain."""
        return self.single and self.tokens_left > 1

    @property
    def single(self) -> bool:
        """Whether it stands for one continuation alone."""
        return self.request.n == 1 or self.request.forked

    @property
    def members(self) -> list[Sequence]:
        """Sequences that run together with it or not at all, itself included."""
        return [self]

    @property
    def least_slots(self) -> int:
        """Batch slots without which it is not admitted: all that its gang takes."""
        return 1

    @property
    def wanted(self) -> bool:
        """Whether the client wants anything of what it stands for."""
        return bool(set(self.continuations()) - self.request.aborted)

    @property
    def tokens_left(self) -> int:
        """Tokens that may still be drawn for it, besides those that are coming."""
        request, length = self.request, len(self.tokens) + self.coming
        return min(len(request.prompt) // 4 + request.sampling.max_tokens, request.longest) - length

    def grow(self, block: int) -> None:
        """Put a block behind the table. What it grows into is its own, and steps in flight may read the old end."""
        table, buffer = self.table, self.buffer
        have = len(table)
        if table.base is not buffer or have == len(buffer):
            buffer = self.buffer = np.empty(have + have // 4 + 8, np.int32)
            buffer[:have] = table
        buffer[have] = block
        self.table = buffer[: have + 1]

    def leave_behind(self, blocks: int) -> None:
        """Forget the first blocks of the table; it is a new one, as steps in flight may read the old."""
        self.table = self.table.copy()
        self.table[:blocks] = GIVEN_BACK
        self.behind = blocks

    def append(self, token: int) -> None:
        """Take a new token over; it is still to be computed, and hashed once its block is full and to be sealed."""
        self.tokens.append(token)
        if self.grammar is not None:
            self.grammar.accept((token,))

    def enter_grammar(self) -> None:
        """Stand in the request's grammar, if it has one, where the generated tokens lead."""
        grammar = self.request.grammar
        self.grammar = grammar.after(self.tokens[len(self.request.prompt) // 4 :]) if grammar else None

    def continuations(self) -> list[int]:
        """The continuations this sequence stands for: all of them until the request forks."""
        request = self.request
        if self.single:
            return [self.index]
        return [index for index in request.numbers if index not in request.aborted]

    def draws(self) -> list[int]:
        """The continuations that are drawn for when its tokens are computed."""
        return self.continuations()

    def drop_blocks(self) -> None:
        """Forget its blocks: the sequence was preempted or its session is gone."""
        self.table = EMPTY_TABLE
        assert not self.in_flight, "the blocks of work in flight"
        self.computed = self.sealed = self.behind = self.promised = 0
        self.writable = self.ended = False
        self.inherited = NO_WAITER

    def asks(self, op: str) -> str:
        """The kvstore is asked something for it: what it is a part of, for the message, if that is traced."""
        trace = self.request.trace
        return trace.call(op, self.id) if trace is not None else ""

    def answered(self, op: str, code: int) -> None:
        """The kvstore has answered that, with an item code."""
        if self.request.trace is not None:
            self.request.trace.answered(op, self.id, code)

    def banned(self, place: int = 0) -> tuple[int, ...]:
        """Tokens that may not be drawn next, or behind ``place`` drafted ones, whatever a grammar says of them."""
        early = self.generated + self.coming + place < self.request.sampling.min_tokens
        return tuple(self.request.stop_ids) if early else ()

    def sample_row(self, index: int, draft: Draft | None = None, place: int = 0) -> SampleRow:
        """How the next token of continuation ``index`` is drawn, or the one behind ``place`` drafted ones."""
        s = self.request.sampling
        banned = () if self.grammar else self.banned()  # else its mask knows
        position = len(self.tokens) + self.coming + place
        wanted = self.request.adjustments
        foreseen = draft.behind(len(self.tokens), place) if draft and place else None
        output = None if wanted is None else self._output(wanted.reach, foreseen)
        return SampleRow(
            s.temperature, s.top_k, s.top_p, s.min_p, s.seed, index, position, banned, s.logprobs, wanted, output
        )

    def _output(self, most: int | None, foreseen: array[int] | None = None) -> array[int] | None:
        """The last ``most`` tokens generated, None for all, before the newest one; that may be still coming, or the
        last that is foreseen behind those known."""
        known = len(self.tokens)
        more = self.coming if foreseen is None else len(foreseen)
        before = self.generated + more - 1
        if before < 0:
            return None
        end = known + more - 1
        first = end - (before if most is None else min(most, before))
        if foreseen is None or end <= known:
            return self.tokens[first:end]
        return self.tokens[first:known] + foreseen[max(0, first - known) : end - known]
