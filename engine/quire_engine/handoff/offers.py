"""Offers: what this engine hands over to others, and has not lost sight of.

The gateway names continuations and the session that is to go on with them. At the end of a step, when nothing is in
flight and everything is said that is written of them, each sequence is offered to that session by the kvstore and its
continuations are given back, with the offer's name, behind the last token that came of them here. From then on it is
the target's to adopt: nothing of it is computed twice, the unsealed tail included.

What holds no blocks, or cannot be offered (a beam search: its state is here), is given back alone. A prompt of which
log-probabilities are wanted stays until they are sent, and is given back alone then. What was offered and is not
adopted in time is given up, and computed again by whichever engine goes on with it.

Invariants: what is given back is out of the scheduler; a sequence that is offered is named by no work in flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from quire_engine.kv.kv_session import KvSession
from quire_engine.sequences.sequence import Sequence
from quire_kv import Conflict, NotFound
from quire_proto.gateway_link import Abort, Continuation, Handoff

EXPIRES_S = 5.0


class LiveSequences(Protocol):
    """Where sequences are until they are given back: the scheduler."""

    running: list[Sequence]

    def sequences(self) -> list[Sequence]:
        """All of them."""
        ...

    def remove(self, sequence: Sequence) -> None:
        """It leaves."""
        ...


class GivenBack(Protocol):
    """Where what is given back goes: the outbox."""

    counters: dict[str, int]

    def give_back(self, sequence: Sequence, computed: int, offer: bytes = b"") -> None:
        """All continuations of it are to go on elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class _Open:
    """A sequence that was offered: of which continuations, under which number here, and how long."""

    of: frozenset[Continuation]
    number: int
    until: float


class Offers:
    """The offers of one session.

    Args:
        forget_wait: told of a sequence that waits no longer for what another computes.
    """

    def __init__(
        self, kv: KvSession, live: LiveSequences, given_back: GivenBack, forget_wait: Callable[[Sequence], None]
    ) -> None:
        self._kv, self._live, self._given_back, self._forget_wait = kv, live, given_back, forget_wait
        self._asked: dict[Continuation, bytes] = {}
        self._chosen: list[tuple[Sequence, bytes]] = []
        self._open: list[_Open] = []

    @property
    def asked(self) -> bool:
        """Whether something is to be handed over."""
        return bool(self._asked)

    def ask(self, message: Handoff) -> None:
        """The gateway wants these continuations to go on in another session; in none in particular if it names none."""
        self._asked |= dict.fromkeys(message.items, message.target)

    def choose(self) -> None:
        """Nothing is in flight: choose what can be offered, have all said that is written of it, and give the rest
        back."""
        asked, self._asked = self._asked, {}
        running = set(self._live.running)
        for sequence in self._live.sequences():
            of = _continuations(sequence)
            target = next((asked[one] for one in of if one in asked), None)
            if target is None or (sequence in running and sequence.request.prompt_logprobs):
                continue
            how = sequence.request.sampling
            # A prompt that was scored has digests under a salt that the target does not know.
            if target and sequence in running and not (how.beam_width or how.prompt_logprobs):
                self._kv.quiesce(sequence)
                self._chosen.append((sequence, target))
            else:
                self._give_back(sequence)

    def make(self) -> None:
        """Everything is said: offer what was chosen. What its target cannot take goes on here."""
        chosen, self._chosen = self._chosen, []
        offers = self._kv.offer(chosen, int(1000 * EXPIRES_S)) if chosen else []
        until = time.monotonic() + EXPIRES_S
        for (sequence, _), offer in zip(chosen, offers, strict=True):
            if offer:
                of = _continuations(sequence)
                self._live.remove(sequence)
                self._given_back.give_back(sequence, sequence.computed, offer)
                self._given_back.counters["offered"] += 1
                self._open.append(_Open(frozenset(of), sequence.id, until))

    def leave_publications(self) -> None:
        """What no client waits for is left to other engines."""
        for sequence in [sequence for sequence in self._live.sequences() if not sequence.request.id]:
            self._live.remove(sequence)
            self._kv.finished(sequence)

    def abort(self, message: Abort) -> None:
        """The client of an offered sequence may have left before it was adopted."""
        for one in tuple(self._open):
            if any(of.request == message.request and (message.every or of.index == message.index) for of in one.of):
                self._close(one)

    def expire(self) -> None:
        """Give up what was not adopted in time; for what was, that says nothing."""
        now = time.monotonic()
        while self._open and self._open[0].until <= now:
            self._close(self._open[0])

    def settled(self) -> bool:
        """Whether nothing of this session is waiting to be adopted."""
        self._open = [one for one in self._open if self._holds(one.number)]
        return not self._open

    def _holds(self, number: int) -> bool:
        """Whether a sequence that was offered is still ours."""
        self._kv.messages += 1
        try:
            self._kv.client.fill(number, 0)
        except NotFound:
            return False
        except Conflict:
            pass  # offered still, or not any more and with more tokens than that
        return True

    def _close(self, one: _Open) -> None:
        self._open.remove(one)
        self._kv.forget(one.number)

    def _give_back(self, sequence: Sequence) -> None:
        self._given_back.give_back(sequence, sequence.computed or sequence.had)
        for member in sequence.members:
            self._live.remove(member)
            self._kv.finished(member)
        self._forget_wait(sequence)


def _continuations(sequence: Sequence) -> list[Continuation]:
    return [Continuation(sequence.request.id, index) for index in sequence.continuations()]
