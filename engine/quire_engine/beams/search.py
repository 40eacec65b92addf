"""BeamSearch: which continuations of a request's beams are kept at a step, and which are answers.

The search is that of ``generate(num_beams=...)`` of transformers, so its answers are those a user compares with: of all
continuations of all beams the likeliest ``width`` that do not end go on; one that ends is an answer if it is among the
``width`` likeliest of all, scored by the sum of its log-probabilities over its length to the power of the length
penalty. The best ``width`` answers are kept. The search is over when as many are there and no beam can do better, as
far as is known (``early_stopping``), and in any case when the answers are as long as they may be.

Numbers alone: no sequence, block or message in here.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire_proto.gateway_link import TokenLogprob

HEURISTIC, AT_ONCE, NEVER = "", "at_once", "never"
EARLY_STOPPING = (HEURISTIC, AT_ONCE, NEVER)


@dataclass(frozen=True, slots=True)
class Offer:
    """One beam's part in a step: the tokens that may follow it, likeliest first.

    ``tokens``, ``logprobs``: what it has generated, and what is known of each of these. ``score``: the sum of their
    log-probabilities.
    """

    tokens: array[int]
    logprobs: list[TokenLogprob]
    score: float
    ids: tuple[int, ...]
    likely: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A beam (its place among the offers) with a token behind it; the token's log-probability, and the sum of all."""

    beam: int
    token: int
    logprob: float
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A continuation that has ended; ``score`` is what answers are compared by."""

    tokens: array[int]
    logprobs: list[TokenLogprob]
    score: float
    finish: str


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """How one request wants to be searched.

    Attributes:
        width: beams that go on.
        longest: tokens of an answer.
        stop_ids: tokens that end one, not before ``min_tokens``.
        length_penalty: as transformers has it, and ``early_stopping``: there True is ``AT_ONCE``, False ``HEURISTIC``.
        alternatives: the likeliest tokens that are wanted beside each token's log-probability; -1: not even that.
    """

    width: int
    longest: int
    stop_ids: frozenset[int]
    min_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: str = HEURISTIC
    alternatives: int = -1

    @property
    def offered(self) -> int:
        """Tokens that a beam must offer, so that enough are left of those that do not end it."""
        return max(self.width + len(self.stop_ids), self.alternatives)


class BeamSearch:
    """The search of one request.

    Attributes:
        generated: tokens that each beam has.
        answers: the best so far, best first.
        over: nothing more is to be computed.
    """

    def __init__(self, limits: SearchLimits) -> None:
        self.limits = limits
        self.generated = 0
        self.answers: list[Answer] = []
        self.over = False
        self._stops = np.array(sorted(limits.stop_ids), np.int64)

    def advance(self, offers: Sequence[Offer]) -> list[Candidate]:
        """One token more: what goes on, best first; nothing if the search is over."""
        limits, early = self.limits, self.generated < self.limits.min_tokens
        self.generated += 1
        ids, likely, scores = _tables(offers)
        ends = np.isin(ids, self._stops)
        if early:
            scores[ends] = -np.inf
        last = self.generated >= limits.longest
        ranked = np.argsort(-scores, axis=None, kind="stable")
        ranked = ranked[scores.ravel()[ranked] > -np.inf]
        ended, on = ends.ravel()[ranked] & (not early), list[Candidate]()
        for place, flat in enumerate(ranked.tolist()):
            if len(on) == limits.width or (last and place == limits.width):
                break
            beam, column = divmod(flat, ids.shape[1])
            found = Candidate(beam, int(ids[beam, column]), float(likely[beam, column]), float(scores[beam, column]))
            if not (last or ended[place]):
                on.append(found)
            elif place < limits.width:
                self._take(offers[beam], found, "stop" if ended[place] else "length")
        self.answers = sorted(self.answers, key=lambda answer: -answer.score)[: limits.width]
        self.over = last or not on or self._settled(on[0].score)
        return [] if self.over else on

    def told(self, offer: Offer, candidate: Candidate) -> list[TokenLogprob]:
        """The log-probabilities of a beam with the candidate behind it, as far as they are wanted."""
        most = self.limits.alternatives
        if most < 0:
            return offer.logprobs
        top = np.array(offer.ids[:most], "<u4").tobytes()
        return [*offer.logprobs, TokenLogprob(candidate.logprob, top, offer.likely[:most])]

    def _take(self, offer: Offer, candidate: Candidate, finish: str) -> None:
        tokens = offer.tokens + array("I", [candidate.token])
        score = candidate.score / float(self.generated) ** self.limits.length_penalty
        self.answers.append(Answer(tokens, self.told(offer, candidate), score, finish))

    def _settled(self, best: float) -> bool:
        """Whether no beam, the best of which has this sum, will be one of the answers, as far as is known."""
        limits = self.limits
        if len(self.answers) < limits.width:
            return False
        if limits.early_stopping == AT_ONCE:
            return True
        longest = limits.early_stopping == NEVER and limits.length_penalty > 0
        length = limits.longest if longest else self.generated
        reachable: float = best / float(length) ** limits.length_penalty
        return reachable <= self.answers[-1].score


def _tables(
    offers: Sequence[Offer],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Tokens offered, their log-probabilities, and the sums with those of their beams: a row a beam."""
    likely = np.array([offer.likely for offer in offers], np.float64)
    before = np.array([[offer.score] for offer in offers], np.float64)
    return np.array([offer.ids for offer in offers], np.int64), likely, likely + before
