"""Engines: which are connected, how busy each is, and which one gets the next request.

The least loaded engine wins, counted in continuations: what it last reported plus what was sent to it since, and
never less than what this gateway knows to be open there. Reports come twice a second, far too seldom for a burst;
counting what was sent since keeps a burst from piling up on one engine.

Invariants: a name is one process: a second one is refused as long as the first holds its connection, however long it
has been silent. An engine is in the table from its hello to the end of its connection and no longer. What it carried
then goes on in others (``failover``), and so does what it gives back, or carries when it has been silent for too long.
An engine gets work only while it reports that it is ready and has reported in the last ``MAX_SILENCE_S`` seconds that
this loop was awake. Whether anything can be served is computed when asked, never stored, so it is always true.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import structlog

from quire_proto.gateway_link import PREFILL, Hello, Load, Outputs
from quire_services.gateway.failover.losses import Losses
from quire_services.gateway.failover.stranded import Stranded
from quire_services.gateway.failover.suspects import MOST_DEATHS, guilty, on_trial
from quire_services.gateway.http.errors import (
    AWAY_RETRY_AFTER_S,
    ApiError,
    last_engine,
    no_such_engine,
    poison,
    queue_full,
    unavailable,
)
from quire_services.gateway.link.engine import Engine
from quire_services.gateway.link.handoffs import best_suited, hand_over
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.turns.admission import Admission
from quire_services.gateway.turns.hold import Hold
from quire_services.gateway.turns.weights import Weights

from .generations import Call, Generation

WATCH_S = 0.5
LOGGED_REQUESTS = 64  # of those that move together
GONE, SILENT, GIVEN_BACK = CAUSES = ("gone", "silent", "given_back")
log = structlog.get_logger()


class Engines:
    """All connected engines.

    Args:
        max_queue: generations that may wait for their first token before new requests are refused.
        hold_s: seconds that a request waits for an engine that is expected back, begun or not.
        timed: whether the latencies of engines are measured.

    Attributes:
        weights: of tenants; the default's until something follows a kvstore.
        draining: nothing new is taken.
        moves: continuations that were taken from an engine, by why.
        losses: engines whose connection has ended.
    """

    def __init__(self, max_queue: int, hold_s: float = 0, timed: bool = True) -> None:
        self.weights = Weights()
        self._admission = Admission(max_queue, self.weights)
        self._hold = Hold(hold_s)
        self._stranded = Stranded(hold_s, lambda: bool(self._usable()))
        self._engines: dict[str, Engine] = {}
        self.timed = timed
        self._picks = 0
        self.moves = Counter[str](dict.fromkeys(CAUSES, 0))
        self.losses = Losses()
        self.draining = False

    def add(self, engine: Engine) -> str:
        """Register an engine; the reason if it does not fit the others, else an empty string."""
        for other in self._engines.values():
            if other.hello.engine != engine.hello.engine and _serves(other.hello) != _serves(engine.hello):
                return f"it serves {_serves(engine.hello)}, {other.hello.engine} serves {_serves(other.hello)}"
        if old := self._engines.get(engine.hello.engine):
            if not old.hung_up():
                return f"an engine named {old.hello.engine!r} (pid {old.hello.pid}) is connected: choose another --name"
            self.remove(old)
            old.disconnect()
        self._engines[engine.hello.engine] = engine
        self._hold.seen()
        return ""

    def on_load(self, engine: Engine, load: Load) -> None:
        """Take an engine's report."""
        engine.on_load(load)
        if load.leaving and not engine.drained:
            engine.drain(True)
        if load.ready:
            self._hold.seen()
            self._go_on()
        self._hand_over()

    def on_outputs(self, engine: Engine, outputs: Outputs) -> None:
        """Take the outputs of an engine's step."""
        given_back = engine.on_outputs(outputs)
        for generation in given_back:
            self.moves[GIVEN_BACK] += 1
            self._stranded.add(generation)
        if given_back or (self._stranded and not on_trial(engine.attempts.values())):
            self._go_on()
        if engine.hello.role == PREFILL:
            self._hand_over(engine)

    async def watch(self) -> None:
        """Look for engines that have fallen silent, until cancelled: what they carry goes on elsewhere."""
        while True:
            await asyncio.sleep(WATCH_S)
            for engine in tuple(self._engines.values()):
                if engine.silent and engine.attempts:
                    self._abandon(engine, SILENT)
            self._hand_over()

    def drain_engine(self, name: str, force: bool = False) -> Engine:
        """Give an engine nothing new and have others go on with what it has. Raises ApiError 404 if there is none of
        that name, 409 if no other can be given work, unless that is forced."""
        engine = self._named(name)
        if not force and not engine.drained and not set(self._usable()) - {engine}:
            raise last_engine(name)
        if not engine.drained:
            engine.drain(True)
        self._hand_over()
        return engine

    def undrain_engine(self, name: str) -> Engine:
        """Give an engine work again. Raises ApiError 404."""
        engine = self._named(name)
        if engine.drained:
            engine.drain(False)
            self._hold.seen()
            self._go_on()
        return engine

    def all(self) -> list[Engine]:
        """Those that are connected."""
        return list(self._engines.values())

    def drain(self) -> None:
        """Take nothing new from now on."""
        self.draining = True
        self._hold.changed()

    async def expected(self, tenant: str) -> None:
        """Wait for an engine, if none can be given work and one is expected; there may be none afterwards. Raises
        ApiError 429 if too many requests of the tenant wait."""
        if not self.why_not() or self.draining or not self._hold.expects():
            return
        if self._admission.refuses(tenant, self.waiting()):
            raise queue_full()
        await self._hold.wait(tenant, lambda: not self.why_not() or self.draining)

    def remove(self, engine: Engine) -> None:
        """Take an engine out; what it carried goes on elsewhere."""
        if self._engines.get(engine.hello.engine) is engine:
            del self._engines[engine.hello.engine]
            self.losses.add(engine)
        self._abandon(engine, GONE)

    def submit(self, call: Call) -> None:
        """Send every generation of a call to an engine. Raises ApiError 503 if there is none, 429 if too many of its
        tenant wait."""
        usable = self._trusted()
        if not usable or self.draining:
            raise self._away()
        tenant = call.generations[0].tenant
        if self._admission.refuses(tenant, self.waiting()):
            raise queue_full()
        weight = self.weights.of(tenant)
        busy = {engine: engine.busyness() for engine in best_suited(usable, begun=False)}
        for generation in call.generations:
            engine, (whole,) = self._pick(busy), generation.parts()
            busy[engine] += engine.submit(generation, whole, weight)

    def limits(self) -> Limits:
        """What every usable engine can take. 503 if there is none."""
        usable = self._usable()
        if not usable or self.draining:
            raise self._away()
        return Limits(
            min(engine.longest for engine in usable),
            min(engine.hello.vocab_size for engine in usable),
            min(engine.widest for engine in usable),
        )

    def why_not(self) -> str:
        """Why nothing can be served now; empty if something can."""
        if self.draining:
            return "the gateway is shutting down"
        if self._usable():
            return ""
        if not self._engines:
            return "no engine is connected"
        states = ", ".join(f"{e.hello.engine} is {e.why_not()}" for e in self._engines.values())
        return f"no engine is ready: {states}"

    def waiting(self) -> Counter[str]:
        """Generations that have no token yet, and requests that wait for an engine, by tenant."""
        return Counter(g.tenant for g in self._generations() if not g.started) + self._hold.waiting

    @property
    def held(self) -> int:
        """Requests that wait because no engine can be given work."""
        return self._hold.waiting.total()

    @property
    def stranded(self) -> int:
        """Generations whose engine is gone and that wait for another."""
        return len(tuple(self._stranded))

    def connected(self) -> tuple[Engine, ...]:
        """All engines."""
        return tuple(self._engines.values())

    def calls(self) -> set[Call]:
        """All calls that have a generation at an engine, or one that waits for another."""
        return {generation.call for generation in self._generations()}

    def summary(self) -> dict[str, Any]:
        """Counts for the health page."""
        return {"connected": len(self._engines), "ready": len(self._usable())}

    def eos_token_ids(self) -> bytes:
        """End-of-sequence tokens of the model, packed; empty without engines."""
        return next((e.hello.eos_token_ids for e in self._engines.values()), b"")

    def _generations(self) -> set[Generation]:
        attempts = (attempt for engine in self._engines.values() for attempt in engine.attempts.values())
        return {attempt.generation for attempt in attempts} | set(self._stranded)

    def _abandon(self, engine: Engine, cause: str) -> None:
        """Nothing more is expected of what an engine carries."""
        lost = list(engine.attempts.values())
        for call in guilty(lost):
            tenant = call.generations[0].tenant
            log.error("poison", request_id=call.request_id, tenant=tenant, engine=engine.hello.engine)
            call.fail(poison())
        for attempt in lost:
            if attempt.open and engine.silent:  # else it is gone
                engine.abort(attempt, None)
            for index in tuple(attempt.open):
                self.moves[cause] += 1
                attempt.lose(index)
                self._stranded.add(attempt.generation)
        if lost:
            requests = sorted({attempt.generation.call.request_id for attempt in lost})
            log.info("moved", attempts=len(lost), engine=engine.hello.engine, requests=requests[:LOGGED_REQUESTS])
            self._go_on()

    def _hand_over(self, *engines: Engine) -> None:
        """Have engines hand over what is to leave them, as far as others can take it; all engines, if none is named."""
        leave = [e for e in engines or self._engines.values() if e.attempts and (e.drained or e.hello.role == PREFILL)]
        others = [engine for engine in self._usable() if not engine.quiet] if leave else []
        for engine in leave:
            if not engine.silent:
                hand_over(engine, [e for e in others if engine.drained or e.hello.role != PREFILL])

    def _named(self, name: str) -> Engine:
        if name not in self._engines:
            raise no_such_engine(name)
        return self._engines[name]

    def _go_on(self) -> None:
        """Send what is stranded to engines, as far as there are some."""
        usable = self._trusted() if self._stranded else []
        busy = {engine: engine.busyness() for engine in usable}
        tried = {engine: on_trial(engine.attempts.values()) for engine in usable}
        for generation in self._stranded if busy else ():
            for part in generation.parts():
                call, suspect = generation.call, max(generation.deaths[index] for index in part) >= MOST_DEATHS
                able = {e: busy[e] for e in busy if not suspect or tried[e] <= {call}}
                if able:
                    able = {e: able[e] for e in best_suited(able, begun=bool(generation.emitted[part[0]]))}
                    told = generation.given_back.get(part[0])
                    engine = next((e for e in able if told and told.to is e), None) or self._pick(able)
                    busy[engine] += engine.submit(generation, part, self.weights.of(generation.tenant))
                    tried[engine] |= {call} if suspect else set()
            if not generation.parts():
                self._stranded.discard(generation)

    def _away(self) -> ApiError:
        return unavailable(self.why_not(), AWAY_RETRY_AFTER_S)

    def _usable(self) -> list[Engine]:
        return [engine for engine in self._engines.values() if not engine.why_not()]

    def _trusted(self) -> list[Engine]:
        """The engines that something is sent to: a quiet one only if all are."""
        usable = self._usable()
        return [engine for engine in usable if not engine.quiet] or usable

    def _pick(self, busy: dict[Engine, int]) -> Engine:
        """The least loaded engine; among equals the one that was picked longest ago."""
        engine = min(busy, key=lambda e: (busy[e], e.picked))
        self._picks += 1
        engine.picked = self._picks
        return engine


def _serves(hello: Hello) -> tuple[str, int, int]:
    return hello.model, hello.vocab_size, hello.max_model_len
