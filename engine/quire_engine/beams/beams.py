"""Beams: requests that are answered by beam search become gangs, and what a search decides becomes forks and ends.

A beam's row is drawn like a greedy one with log-probabilities: its likeliest tokens come to the host with all others of
the step, from one pass over the rows. When the beams of a gang have all offered theirs, the search chooses. A beam that
has several children goes on as the first and is forked for the others, which share all its blocks; one that has none
gives its blocks up. Nothing is delivered before the search is over.

What is launched for a beam depends on that decision, so a beam is never launched ahead: where two steps are in flight
it computes in every second one, and the others of the batch in each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from quire_engine.kv.kv_session import KvSession
from quire_engine.model.runner import Drawn
from quire_engine.sequences.sequence import Request, Sequence
from quire_kv import DomainChain
from quire_proto.gateway_link import Output
from quire_proto.wire.u32 import pack_u32

from .beam import Beam, Gang
from .search import EARLY_STOPPING, BeamSearch, Candidate, Offer, SearchLimits
from .surroundings import Answers, RunningBatch

MAX_PENALTY = 10.0


class Beams:
    """The gangs of one engine.

    Args:
        batch: where they run.
        answers: where what they find goes.
        widest: beams that one may have.
    """

    def __init__(self, batch: RunningBatch, answers: Answers, widest: int) -> None:
        self._batch, self._answers, self._widest = batch, answers, widest

    def first(self, request: Request, chain: DomainChain, arrival: int) -> Sequence:
        """The sequence that a request begins as. Raises ValueError for a search that cannot be."""
        if not request.sampling.beam_width:
            return Sequence(0, request, request.index, chain.ids, chain, arrival)
        self._check(request)
        how = request.sampling
        longest = min(how.max_tokens, request.longest - len(request.prompt) // 4)
        search = BeamSearch(
            SearchLimits(
                how.beam_width,
                longest,
                request.stop_ids,
                how.min_tokens,
                how.length_penalty,
                how.early_stopping,
                how.logprobs - 1,
            )
        )
        gang = Gang(search, request.n)
        request.n = how.beam_width
        request.sampling = replace(how, temperature=0.0, logprobs=search.limits.offered + 1)
        gang.beams = [Beam(0, request, 0, chain.ids, chain, arrival, gang=gang)]
        return gang.beams[0]

    def _check(self, request: Request) -> None:
        how = request.sampling
        if not 1 <= how.beam_width <= self._widest:
            raise ValueError(f"a beam search on this engine has 1 to {self._widest} beams")
        if request.n > how.beam_width:
            raise ValueError(f"{how.beam_width} beams have no {request.n} answers")
        if how.early_stopping not in EARLY_STOPPING or not abs(how.length_penalty) <= MAX_PENALTY:
            raise ValueError(f"early_stopping is one of {EARLY_STOPPING}, length_penalty at most {MAX_PENALTY:g}")
        if request.index or request.emitted or how.grammar or request.adjustments or request.prompt_logprobs:
            raise ValueError(
                "a beam search has no index, tokens emitted before, grammar, adjusted logits or prompt_logprobs"
            )

    def offer(self, kv: KvSession, drawn: Iterable[Drawn]) -> None:
        """A step's rows of beams; those that have ended meanwhile count for nothing."""
        for gang in {self._offered(one): None for one in drawn if not one.sequence.ended}:
            if gang.parked:
                self._unpark(kv, gang)
            elif all(beam.offer is not None for beam in gang.beams):
                self._advance(kv, gang)

    @staticmethod
    def _offered(one: Drawn) -> Gang:
        beam = one.sequence
        assert isinstance(beam, Beam), "a row of a beam"
        beam.offer = one.sampled
        return beam.gang

    def preempted(self, kv: KvSession, beam: Beam) -> Beam:
        """All beams of a gang give their blocks up; the one that waits for all of them."""
        for other in beam.gang.beams[1:]:
            kv.finished(other)
        kv.preempted(beam.gang.beams[0])
        return beam.gang.park()

    def hopeless(self, beam: Beam) -> bool:
        """A gang has just given its blocks up for itself: whether there is no sense in trying again.

        It is tried twice without a token more, while no other sequence runs here; another engine's may have ended.
        """
        gang, generated = beam.gang, beam.gang.search.generated
        if self._batch.running:
            return False
        again, gang.short_at = gang.short_at == generated, generated
        return again

    # --- decisions -----------------------------------------------------------------------------------------------

    def _advance(self, kv: KvSession, gang: Gang) -> None:
        """Each beam has as many children as the search says."""
        offers = [beam.offered() for beam in gang.beams]
        chosen = gang.search.advance(offers)
        if gang.search.over:
            self._end(kv, gang)
            return
        self._answers.counters["generated_tokens"] += len(chosen)
        children = defaultdict[int, list[int]](list)
        for place, candidate in enumerate(chosen):
            children[candidate.beam].append(place)
        before, after = gang.beams, dict[int, Beam]()
        for number, parent in enumerate(before):
            places = children[number]
            if not places:
                self._batch.dropped(parent)
                kv.dropped(parent)
                continue
            branches = [parent, *(self._branch(parent, kv) for _ in places[1:])]
            self._join(kv, parent, branches[1:])
            for place, branch in zip(places, branches, strict=True):
                self._go_on(gang, branch, offers[number], chosen[place])
                after[place] = branch
        gang.beams = [after[place] for place in range(len(chosen))]
        gang.beams[0].request.forked = True

    @staticmethod
    def _go_on(gang: Gang, beam: Beam, offer: Offer, chosen: Candidate) -> None:
        beam.append(chosen.token)
        beam.score, beam.offer = chosen.score, None
        beam.logprobs = gang.search.told(offer, chosen)

    def _unpark(self, kv: KvSession, gang: Gang) -> None:
        """What the parked beams have in common is computed: each goes on with the rest of its tokens."""
        root = gang.beams[0]
        root.offer, root.request.forked = None, True
        gang.beams = [root, *(self._branch(root, kv) for _ in gang.parked[1:])]
        self._join(kv, root, gang.beams[1:])
        for beam, parked in zip(gang.beams, gang.parked, strict=True):
            beam.chain.append(parked.tail)
            beam.score, beam.logprobs = parked.score, parked.logprobs
        gang.parked = []
        self._batch.grown()

    def _branch(self, parent: Beam, kv: KvSession) -> Beam:
        """A child at all that its parent has computed, which is all that it has."""
        chain = parent.chain.fork(parent.computed)
        return Beam(
            kv.new_id(),
            parent.request,
            0,
            chain.ids,
            chain,
            parent.arrival,
            table=parent.table.copy(),
            computed=parent.computed,
            sealed=parent.sealed,
            gang=parent.gang,
        )

    def _join(self, kv: KvSession, parent: Beam, children: list[Beam]) -> None:
        if children:
            kv.forked(parent, list[Sequence](children))
        for child in children:
            self._batch.joined(child)

    def _end(self, kv: KvSession, gang: Gang) -> None:
        """The search is over: its best answers are the request's."""
        request = gang.beams[0].request
        for beam in gang.beams:
            self._batch.remove(beam)
            kv.finished(beam)
        cached = max(0, request.cached_tokens)
        for index in gang.beams[0].continuations():
            if index >= len(gang.search.answers):  # fewer tokens than beams could be chosen from
                self._answers.put(Output(request.id, index, finish="length", cached_tokens=cached))
                continue
            found = gang.search.answers[index]
            told, tokens = tuple(found.logprobs), pack_u32(found.tokens)
            self._answers.counters["generated_tokens"] += 1
            self._answers.put(Output(request.id, index, tokens, told, found.finish, cached, score=found.score))
