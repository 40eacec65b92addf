"""Engine: one connected engine, as the gateway sees it: what it serves, how busy it is, what it carries.

Its load comes twice a second, far too seldom for a burst: what was sent to it since counts as well.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Iterable

import structlog

from quire_proto.gateway_link import (
    Abort,
    Continuation,
    Drain,
    Generate,
    Handoff,
    Hello,
    Load,
    Message,
    Outputs,
    Received,
    encode_message,
)
from quire_proto.spans import Span
from quire_services.gateway.awake_clock import clock
from quire_services.gateway.generations import Attempt, Generation

from .latencies import Latencies

MAX_SILENCE_S = 10.0
QUIET_S = 2.0  # four reports
log = structlog.get_logger()


class Engine:
    """One connected engine.

    Attributes:
        hello: what it serves.
        load: its last report, None before the first.
        attempts: what it carries, by name on the link.
        latencies: of its answers, if anybody may read them.
        drained: it gets nothing new, and what it has goes on elsewhere.
        since: when it connected, or was drained (Unix time).
        tokens_per_s: tokens that it generated between its last two reports, a second.
    """

    def __init__(self, hello: Hello, writer: asyncio.StreamWriter, timed: bool = True) -> None:
        self.hello = hello
        self.load: Load | None = None
        self.attempts: dict[str, Attempt] = {}
        self.picked = 0
        self.latencies = Latencies(hello.max_model_len) if timed else None
        self.drained = False
        self.since = time.time()
        self.tokens_per_s = 0.0
        self._writer = writer
        self._heard = clock.now()
        self._sent_since_load = 0

    def why_not(self) -> str:
        """Why it cannot be given work now; empty if it can."""
        if self.silent:
            return "unresponsive"
        if self.load is None:
            return "starting"
        if self.drained:
            return "drained" if self.idle else "being drained"
        return "" if self.load.ready else "without a kvstore"

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do there."""
        return not self.attempts and self.load is not None and not self.load.running + self.load.waiting

    @property
    def drained_s(self) -> float:
        """Since when it has been drained, in seconds; 0 if it is not."""
        return time.time() - self.since if self.drained else 0.0

    @property
    def free_slots(self) -> int:
        """Sequences that it could run besides, as far as is known."""
        return self.load.slots - self._sent_since_load if self.load else 0

    @property
    def silence_s(self) -> float:
        """Seconds since it was last heard of, while this loop was awake."""
        return clock.now() - self._heard

    @property
    def silent(self) -> bool:
        """Whether it has not been heard of for too long."""
        return self.silence_s > MAX_SILENCE_S

    @property
    def quiet(self) -> bool:
        """Whether a few of its reports are missing: it may have been stopped a moment ago."""
        return self.silence_s > QUIET_S

    @property
    def longest(self) -> int:
        """Tokens that any request's sequence may have: the least of the model, the setting and the pool."""
        return (self.load.longest if self.load else 0) or self.hello.max_model_len

    @property
    def widest(self) -> int:
        """The same for the request whose published prompt leaves it most."""
        return (self.load.widest if self.load else 0) or self.hello.max_model_len

    def busyness(self) -> int:
        """Continuations it has to work on, as far as is known."""
        reported = self.load.running + self.load.waiting if self.load else 0
        carried = sum(attempt.width for attempt in self.attempts.values())
        return max(reported + self._sent_since_load, carried)

    def on_load(self, load: Load) -> None:
        """Take a report."""
        if load.ready != (self.load is not None and self.load.ready):
            log.info("engine_ready" if load.ready else "engine_not_ready", engine=self.hello.engine)
        self._measure(load)
        self.load = load
        self._heard = clock.now()
        self._sent_since_load = 0

    def _measure(self, load: Load) -> None:
        seconds = clock.now() - self._heard
        if self.load is not None and seconds > 0:
            more = load.counters.get("generated_tokens", 0) - self.load.counters.get("generated_tokens", 0)
            self.tokens_per_s = max(0, more) / seconds

    def drain(self, on: bool) -> None:
        """Give it nothing new from now on, or work again."""
        self.drained, self.since = on, time.time()
        self._send(Drain(on))
        log.info("draining" if on else "undrained", engine=self.hello.engine, attempts=len(self.attempts))

    def hand_over(self, items: Iterable[tuple[Attempt, int]], to: Engine | None) -> None:
        """Ask for continuations to go on in another engine, or anywhere."""
        asked = list(items)
        for attempt, index in asked:
            attempt.asked[index] = (to, clock.now())
        session = to.load.session if to and to.load else b""
        self._send(Handoff(session, tuple(Continuation(attempt.id, index) for attempt, index in asked)))

    def on_received(self, received: Received) -> None:
        """It has the request of an attempt; of one that was aborted meanwhile, too."""
        if attempt := self.attempts.get(received.request):
            attempt.received = True

    def on_outputs(self, outputs: Outputs) -> list[Generation]:
        """Hand the outputs of a step to their attempts; those of unknown ones were aborted meanwhile. The generation of
        each continuation that it has given back."""
        given_back = list[Generation]()
        for output in outputs.items:
            attempt = self.attempts.get(output.request)
            if attempt and attempt.deliver(output):
                given_back.append(attempt.generation)
        return given_back

    def submit(self, generation: Generation, part: list[int], weight: int) -> int:
        """Send a part of a generation to this engine, with its tenant's weight; how many continuations more it has."""
        attempt = generation.attempt(part, self)
        generation.moves += len(part) if generation.engines else 0
        generation.engines[self.hello.engine] = None
        self.attempts[attempt.id] = attempt
        self._sent_since_load += attempt.width
        message = generation.message(attempt, weight)
        if generation.call.span is not None:
            self._tell_move(generation.call.span, generation, message)
        self._send(message)
        return attempt.width

    def _tell_move(self, span: Span, generation: Generation, message: Generate) -> None:
        """Say in a traced request's span what goes on here, if it has been elsewhere."""
        name, choices = self.hello.engine, range(message.index, message.index + message.n)
        for before in {generation.last_at.get(index, "") for index in choices} - {""}:
            told = {"quire.from": before, "quire.to": name, "quire.cause": message.cause or "not begun"}
            done = {"quire.index": message.index, "quire.emitted_tokens": len(message.emitted) // 4}
            span.event("move", {**told, **done})
        generation.last_at |= dict.fromkeys(choices, name)

    def abort(self, attempt: Attempt, index: int | None) -> None:
        """Stop one continuation, or all."""
        self._send(Abort(attempt.id, index or 0, every=index is None))

    def heard(self, generation: Generation, index: int) -> None:
        """Tokens of a continuation have come from here."""
        if self.latencies is not None:
            self.latencies.heard(generation, index)

    def finished(self, generation: Generation, index: int, finish: str) -> None:
        """A continuation that came from here has ended."""
        if self.latencies is not None:
            self.latencies.finished(generation, index, finish)

    def forget(self, attempt: Attempt) -> None:
        """Nothing of the attempt is to come any more."""
        self.attempts.pop(attempt.id, None)

    def hung_up(self) -> bool:
        """Whether its process has let go of the connection, by its end at the latest, be that noticed here or not."""
        if self._writer.is_closing():
            return True
        poller = select.poll()
        poller.register(self._writer.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poller.poll(0))

    def disconnect(self) -> None:
        """Close the connection from our side."""
        self._writer.close()

    def _send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode_message(message))
