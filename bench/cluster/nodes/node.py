"""Node: one stack. A real store with its event stream; and in the place of an engine, how long one would take.

    arrived -> allocate -- OK ------> prompt computed, in turn -> fill, seal -> decodes -> fill, seal, free
                  ^    `-- CLAIMED -> waits, holding nothing ---.
                  |        NO_SPACE -> waits at the head --.    |
                  `----------------------------------------'----'

What the engine says to the store is said by its ops, as the kvstore's handlers do: copies are acknowledged before the
first fill, a published prompt that is pending is computed first of all. Blocks of an answer are reserved with its
prompt, and sealed when it is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from bench.cluster.clock import VirtualClock
from bench.cluster.traffic import ROOT_KEY, AgentRequest, tenant_name
from quire_kv import CLAIMED, NO_SPACE, OK, Allocate, Seal, Step
from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.events.catalogue import ALL_TOKENS, INT_HASHES, Form
from quire_kvstore.ops import lifecycle, publish
from quire_kvstore.ops.allocate import allocate
from quire_kvstore.ops.free import free
from quire_kvstore.ops.slices import finish
from quire_kvstore.ops.step import step
from quire_kvstore.ops.wait import wait
from quire_kvstore.sessions.session import Peer
from quire_kvstore.sharing.change_log import Journal
from quire_kvstore.sharing.claims import Ticket
from quire_kvstore.sharing.groups import PUBLIC
from quire_kvstore.state import State
from quire_kvstore.views import invariants
from quire_proto.messages import Allocated, Free, Wait
from quire_proto.wire.digests import DIGEST_BYTES
from quire_proto.wire.u32 import pack_u32, unpack_rows

from .event_stream import EventStream
from .modelled_engine import NEVER, ModelledEngine
from .service_model import ServiceModel

NEVER_MS = 1 << 62
WAIT_S = 60.0  # for what another sequence computes
TOPIC = "kv@node@model"
Heard = Callable[["Node", bytes], None]
Told = Callable[["Node", AgentRequest], None]


@dataclass(frozen=True, slots=True)
class Pool:
    """A node's pool. ``policy``: what is evicted first."""

    blocks: int
    block_size: int
    policy: str

    def form(self) -> Form:
        """How its events are written: as the routers that are tested need them."""
        return Form(self.block_size, "", ALL_TOKENS, INT_HASHES, ROOT_KEY, named=False)


@dataclass(slots=True, eq=False)
class Sequence:
    """A request in the store, or the prefill of a published prompt (``request`` None)."""

    number: int
    request: AgentRequest | None
    publication: str
    tokens: int
    copies: bytes = b""
    sealed: int = 0


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told: of messages of the event stream, of first tokens, of complete answers."""

    heard: Heard
    first_token: Told
    answered: Told


class Node:
    """One life of a node.

    Attributes:
        number: its place in the cluster: a node that is lost is followed by another one with its number.
        state: the store.
        engine: what computes.
        stream: what was told to routers.
        prepared: when the last published prompt was computed, or None.
    """

    def __init__(self, number: int, pool: Pool, model: ServiceModel, clock: VirtualClock, listeners: Listeners) -> None:
        self.number, self.alive = number, True
        self.prepared: float | None = None
        self._pool, self._model, self._clock, self._told = pool, model, clock, listeners
        self.state = State(pool.blocks, pool.block_size, make_policy(pool.policy, pool.blocks))
        self.state.index.journal = Journal()
        self._session = lifecycle.attach(self.state, bytes(16), bytes(16), "engine", Peer(0, b""), NEVER_MS)
        lifecycle.ready(self._session)
        self.engine: ModelledEngine[Sequence] = ModelledEngine(model)
        self.stream = EventStream(pool.form(), TOPIC)
        self._waiting: deque[Sequence] = deque()
        self._aside: dict[int, Sequence] = {}
        self._numbers = 0
        self._plan = 0
        self.engine.advance(clock.now)
        self._tell(self.stream.begin(clock.now))

    # --- from outside -------------------------------------------------------------------------------------------

    def publish(self, identity: str, packed: bytes) -> None:
        """A published prompt is declared; it is computed before anything that comes later."""
        self._enter()
        publish.publish(self.state, identity, PUBLIC, packed)
        self._waiting.appendleft(self._sequence(None, identity, len(packed) // 4))
        self._leave()

    def arrive(self, request: AgentRequest, publication: str) -> None:
        """A request is sent here; its tokens begin with a publication."""
        self._enter()
        self._waiting.append(self._sequence(request, publication, len(request.chain)))
        self._leave()

    def kill(self) -> list[AgentRequest]:
        """The node is lost; returns the requests that were here, each with what its client has by now."""
        self._enter()
        self.alive = False
        lost = [*self._waiting, *self._aside.values(), *self.engine.prompts()]
        for sequence, left in self.engine.lacks():
            request = _of(sequence)
            sent = request.left - left
            request.chain.append(request.answer[4 * request.sent : 4 * (request.sent + sent)])
            request.sent += sent
            lost.append(sequence)
        requests = [sequence.request for sequence in lost if sequence.request is not None]
        for request in requests:
            request.moves += 1
            if request.first_token is None:
                request.cached = None  # what counts is where its first token comes from
        return requests

    def check(self) -> None:
        """Raise AssertionError if an invariant of the store does not hold."""
        invariants.check(self.state)

    # --- the engine's events ------------------------------------------------------------------------------------

    def _wake(self, plan: int) -> None:
        if plan == self._plan and self.alive:
            self._enter()
            self._leave()

    def _enter(self) -> None:
        """Bring all up to date: what the engine has completed by now."""
        self.engine.advance(self._clock.now)
        self.state.tick(round(1000 * self._clock.now))
        while (sequence := self.engine.computed()) is not None:
            self._computed(sequence)
        while (sequence := self.engine.answered()) is not None:
            self._answered(sequence)

    def _leave(self) -> None:
        """Admit what can be, tell what happened, and plan the next event."""
        self._admit()
        journal = self.state.index.journal
        if journal:
            self._tell(self.stream.collect(journal, self._clock.now))
        self._plan += 1
        due = self.engine.due()
        if due < NEVER:
            self._clock.at(due, self._wake, self._plan)

    def _computed(self, sequence: Sequence) -> None:
        """All tokens of a prompt are written, and the first one of its answer is there."""
        request, size = sequence.request, self._pool.block_size
        done = Step(copies_done=sequence.copies, fills=pack_u32((sequence.number, sequence.tokens)))
        if request is None:
            self._say(done)
            self._free(sequence)
            self.prepared = self._clock.now
            return
        self._say(done, self._seal(sequence, sequence.tokens // size))
        if request.first_token is None:
            request.first_token = self._clock.now
        request.chain.append(request.answer[4 * request.sent : 4 * request.sent + 4])
        request.sent += 1
        self._told.first_token(self, request)
        if request.left:
            self.engine.decode(sequence, request.left)
        else:
            self._answered(sequence)

    def _answered(self, sequence: Sequence) -> None:
        """All tokens of an answer are there. The last one is not written: no step has had it as input."""
        request = _of(sequence)
        request.chain.append(request.answer[4 * request.sent :])
        request.sent = len(request.answer) // 4
        written = len(request.chain) - 1
        fills = Step(fills=pack_u32((sequence.number, written)))
        self._say(fills, self._seal(sequence, written // self._pool.block_size))
        self._free(sequence)
        self._told.answered(self, request)

    def _seal(self, sequence: Sequence, end: int) -> Seal:
        first, sequence.sealed = sequence.sealed, max(end, sequence.sealed)
        chain = _of(sequence).chain
        return Seal(sequence.number, first, chain.digests(first, sequence.sealed), chain.packed(first, sequence.sealed))

    def _say(self, said: Step, seal: Seal | None = None) -> None:
        """A step's message; whatever is refused is a fault of this simulation."""
        if seal is not None and seal.digests:
            said = replace(said, seals=(seal,))
        answer = finish(step(self.state, self._session, said))
        codes = {*answer.copies_done, *answer.fills, *(sealed.code for sealed in answer.seals)}
        assert codes <= {OK}, f"the store refused an item: {codes}"

    def _free(self, sequence: Sequence) -> None:
        freed = finish(free(self.state, self._session, Free(pack_u32([sequence.number]))))
        assert freed.codes == bytes([OK]), "a sequence that the store has"

    # --- admission ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Ask for tables, in the order of arrival, as long as there are slots and space."""
        self._hear()
        while self._waiting and len(self.engine) < self._model.rows:
            sequence = self._waiting[0]
            answer = self._ask(sequence)
            if answer.code == NO_SPACE:
                assert len(self.engine), "an idle pool has no room for a request"
                return
            self._waiting.popleft()
            if answer.code == CLAIMED:
                self._wait(sequence, answer)
            else:
                assert answer.code == OK, f"an allocate is answered {answer.code}"
                self._begin(sequence, answer)
            self._hear()

    def _ask(self, sequence: Sequence) -> Allocated:
        published = self.state.publications.get(sequence.publication)
        assert published is not None, "nodes know what is published"
        request = sequence.request
        item = Allocate(
            sequence.number,
            "" if request is None else tenant_name(request.conversation.tenant),
            sequence.tokens,
            b"" if request is None else request.chain.digests(),
            publication=published.id,
            publication_generation=published.generation,
            reserve=0 if request is None else sequence.tokens + request.left,
            may_wait=int(request is not None),
        )
        return finish(allocate(self.state, self._session, item))

    def _begin(self, sequence: Sequence, answer: Allocated) -> None:
        sequence.copies = pack_u32(row[0] for row in unpack_rows(answer.copies, 4))
        sequence.sealed = answer.computed // self._pool.block_size
        if sequence.request is not None and sequence.request.cached is None:
            sequence.request.cached = answer.computed
        self.engine.compute(sequence, sequence.tokens - answer.computed)

    def _wait(self, sequence: Sequence, answer: Allocated) -> None:
        """Another sequence is computing what this one lacks: it holds nothing until that is there."""
        digest = answer.claimed[-DIGEST_BYTES:]
        published = self.state.publications.get(sequence.publication)
        assert published is not None, "nodes know what is published"
        named = ("", 0) if digest else (published.id, published.generation)
        item = Wait(sequence.number, digest, named[0], publication_generation=named[1])
        until = round(1000 * (self._clock.now + WAIT_S))
        if wait(self.state, self._session, item, Ticket(b"", sequence.number), until) is None:
            self._aside[sequence.number] = sequence
        else:
            self._waiting.appendleft(sequence)

    def _hear(self) -> None:
        """Answers to waits: those who have one ask again, before all others."""
        answers = [self._aside.pop(ticket.number) for ticket, _ in self.state.claims.drain_answers()]
        self._waiting.extendleft(reversed(answers))

    def _sequence(self, request: AgentRequest | None, publication: str, tokens: int) -> Sequence:
        self._numbers += 1
        return Sequence(self._numbers, request, publication, tokens)

    def _tell(self, messages: Iterator[bytes]) -> None:
        for payload in messages:
            self._told.heard(self, payload)


def _of(sequence: Sequence) -> AgentRequest:
    assert sequence.request is not None, "a published prompt has no answer"
    return sequence.request
