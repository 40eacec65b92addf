"""Beam: a sequence that is one of its request's beams; and the gang that they are.

The beams of a request go on together: which of them have children is decided when each has computed its newest token
and offers what may follow. Until then those that have offered wait in their batch slots. So a gang runs whole or not at
all: it is admitted with a slot for each beam, and when one beam has to give up its blocks, all do (``park``). What
waits then is one sequence, of the tokens that all beams have in common; when that is computed again the beams are
forked off it and compute the rest of theirs.

Invariants: the beams of a gang have the same number of tokens; the first stands for all answers of the request.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np

from quire_engine.model.sampler import Sampled
from quire_engine.sequences.sequence import Sequence
from quire_proto.gateway_link import TokenLogprob

from .search import BeamSearch, Offer


@dataclass(frozen=True, slots=True)
class ParkedBeam:
    """What a beam has beyond the tokens that its gang has in common."""

    tail: array[int]
    score: float
    logprobs: list[TokenLogprob]


@dataclass(slots=True, eq=False)
class Gang:
    """The beams of one request.

    Attributes:
        answers: how many of the search's are wanted.
        beams: best first; the one that holds the prompt, or what the parked ones have in common, at first.
        parked: beams that are to be forked off that one.
        short_at: tokens generated when it last had no memory, though no other sequence ran here.
    """

    search: BeamSearch
    answers: int
    beams: list[Beam] = field(default_factory=list)
    parked: list[ParkedBeam] = field(default_factory=list)
    short_at: int = -1

    def park(self) -> Beam:
        """The blocks are given up: the beam that waits for all of them."""
        first = self.beams[0]
        for beam in self.beams:
            beam.offer = None
        if len(self.beams) > 1:
            common = self._common()
            self.parked = [ParkedBeam(beam.tokens[common:], beam.score, beam.logprobs) for beam in self.beams]
            first.chain = first.chain.fork(common)
            first.tokens = first.chain.ids
            first.request.forked = False
            self.beams = [first]
        return first

    def _common(self) -> int:
        """Tokens that all beams begin with; each has at least one more."""
        generated = np.array([beam.tokens[-self.search.generated :] for beam in self.beams])
        same = (generated == generated[0]).all(axis=0)
        return len(self.beams[0].tokens) - self.search.generated + int(np.argmin(same))


@dataclass(slots=True, eq=False)
class Beam(Sequence):
    """One beam.

    Attributes:
        score: sum of the log-probabilities of what it has generated.
        logprobs: of each of these tokens, if they are wanted.
        offer: what may follow its newest token, once that is computed.
    """

    gang: Gang = field(kw_only=True)
    score: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    offer: Sampled | None = None

    @property
    def single(self) -> bool:
        """It may have any number of children."""
        return False

    @property
    def members(self) -> list[Sequence]:
        """All beams of its request."""
        return list(self.gang.beams)

    @property
    def least_slots(self) -> int:
        """One for each beam."""
        return self.gang.search.limits.width

    @property
    def wanted(self) -> bool:
        """Whether an answer of the search is wanted still."""
        return len(self.request.aborted.intersection(range(self.gang.answers))) < self.gang.answers

    def draws(self) -> list[int]:
        """One row: what it offers."""
        return [0]

    def continuations(self) -> list[int]:
        """All answers for the first, none for the others."""
        if self is not self.gang.beams[0]:
            return []
        return [index for index in range(self.gang.answers) if index not in self.request.aborted]

    def offered(self) -> Offer:
        """Its part in the step."""
        assert self.offer is not None, "a beam whose newest token is computed"
        tokens = self.tokens[len(self.request.prompt) // 4 :]
        return Offer(tokens, self.logprobs, self.score, self.offer.top_ids, self.offer.top_logprobs)
