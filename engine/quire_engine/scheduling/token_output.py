"""TokenOutput: what the tokens drawn in a step do to their sequences.

A token is appended, delivered, and may end its continuation. Where a request with several continuations reaches the
end of its prompt, the tokens drawn from that one row become branches: the first goes on in the sequence itself, the
others are forked off it and share all it has computed. A branch that ends with its first token is never forked. One
for which there is no batch slot waits with its token, and finds the prompt in the cache when its turn comes.

Where a grammar allows one token only, that is taken without being drawn, and so are those behind it: their next step
computes all of them at once. The tokens are the same, for a draw could have chosen no other.
"""

from __future__ import annotations

from collections.abc import Callable

from quire_engine.kv.kv_session import KvSession
from quire_engine.model.runner import Drawn
from quire_engine.model.sampler import Sampled
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import Work
from quire_proto.gateway_link import Output, TokenLogprob
from quire_proto.wire.u32 import pack_u32

from .outbox import Outbox
from .scheduler import Scheduler

MAX_FORCED = 64  # tokens taken at a time


class TokenOutput:
    """Applies the results of steps for one engine.

    Args:
        next_arrival: gives branches their place in the order of arrival.
    """

    def __init__(self, scheduler: Scheduler, outbox: Outbox, next_arrival: Callable[[], int]) -> None:
        self._scheduler, self._outbox, self._next_arrival = scheduler, outbox, next_arrival

    def apply(self, kv: KvSession, work: list[Work], drawn: list[Drawn]) -> None:
        """The step's work is complete and these tokens were drawn.

        What ended or was aborted since the step was launched counts for nothing.
        """
        counters = self._outbox.counters
        counters["computed_tokens"] += sum([item.count for item in work])
        kv.computed(work)
        wanted = [t for t in drawn if not t.sequence.ended and t.index not in t.sequence.request.aborted]
        counters["generated_tokens"] += len(wanted)
        children: dict[Sequence, list[Sequence]] = {}
        for token in wanted:
            parent = token.sequence
            if parent not in children:
                children[parent] = []
                parent.index = token.index
                if self._advance(parent, token.sampled):
                    self._scheduler.remove(parent)
                    kv.finished(parent)
            else:
                branch = self._branch(parent, token.index, kv)
                if not self._advance(branch, token.sampled):
                    children[parent].append(branch)
            parent.request.forked = True
        for parent, branches in children.items():
            if branches:
                self._fork(parent, branches, kv)

    def _branch(self, parent: Sequence, index: int, kv: KvSession) -> Sequence:
        """A child of ``parent`` at all it has computed, before the parent's own next token."""
        known = parent.computed
        chain = parent.chain.fork(known)
        branch = Sequence(
            kv.new_id(),
            parent.request,
            index,
            chain.ids,
            chain,
            self._next_arrival(),
            table=parent.table.copy(),
            computed=known,
            sealed=parent.sealed,
        )
        branch.enter_grammar()
        return branch

    def _fork(self, parent: Sequence, children: list[Sequence], kv: KvSession) -> None:
        left = max(0, self._scheduler.slots_left())
        now, later = children[:left], children[left:]
        if now:
            kv.forked(parent, now)
        for child in now:
            self._scheduler.joined(child)
        for child in later:
            child.drop_blocks()
            self._scheduler.add(child)

    def _advance(self, sequence: Sequence, sampled: Sampled) -> bool:
        """Append the token and deliver it; True if the continuation ends with it."""
        request, grammar = sequence.request, sequence.grammar
        sequence.append(sampled.token)
        if grammar is not None and (error := grammar.error):
            self._outbox.put(Output(request.id, sequence.index, finish="error", code="grammar", message=error))
            return True
        finish = self._finish(sequence, sampled.token)
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.sampling.logprobs:
            logprobs = (TokenLogprob(sampled.logprob, pack_u32(sampled.top_ids), sampled.top_logprobs),)
        tokens, cached = pack_u32([sampled.token]), max(0, request.cached_tokens)
        if request.prompt_logprobs and sequence.index == 0:
            self._outbox.put_scores(request.id, request.prompt_logprobs)
            request.prompt_logprobs = []
        self._outbox.put(Output(request.id, sequence.index, tokens, logprobs, finish, cached))
        return bool(finish) or (not sequence.launched_ahead and self._take_forced(sequence))

    def take_forced(self, kv: KvSession, sequence: Sequence) -> bool:
        """Take what its grammar forces behind the tokens that are in flight, before the last of them has been drawn
        from; whether that was anything."""
        before = len(sequence.tokens)
        if self._take_forced(sequence):
            self._scheduler.remove(sequence)
            kv.finished(sequence)
        return len(sequence.tokens) > before

    def _take_forced(self, sequence: Sequence) -> bool:
        """Append and deliver tokens for which there is no choice; True if the continuation ends with the last."""
        request, grammar = sequence.request, sequence.grammar
        if grammar is None or request.sampling.logprobs:  # these are of logits, which only a step has
            return False
        taken, finish = list[int](), ""
        while not finish and len(taken) < MAX_FORCED and (token := grammar.forced()) is not None:
            sequence.append(token)
            taken.append(token)
            finish = self._finish(sequence, token)
        if taken:
            self._outbox.counters["generated_tokens"] += len(taken)
            self._outbox.counters["forced_tokens"] += len(taken)
            self._scheduler.grown()
            cached = max(0, request.cached_tokens)
            self._outbox.put(Output(request.id, sequence.index, pack_u32(taken), (), finish, cached))
        return bool(finish)

    def _finish(self, sequence: Sequence, token: int) -> str:
        s = sequence.request.sampling
        if token in sequence.request.stop_ids and sequence.generated >= s.min_tokens:
            return "stop"
        if sequence.grammar is not None and sequence.grammar.ended:
            return "stop"
        if sequence.generated >= s.max_tokens or len(sequence.tokens) >= sequence.request.longest:
            return "length"
        return ""
