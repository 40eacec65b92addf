"""TokenOutput: what the tokens drawn in a step do to their sequences.

A token is appended, delivered, and may end its continuation; with it those drawn behind the tokens of a draft that came
true, which are computed already. Where a request with several continuations reaches the
end of its prompt, the tokens drawn from that one row become branches: the first goes on in the sequence itself, the
others are forked off it and share all it has computed. A branch that ends with its first token is never forked. One
for which there is no batch slot waits with its token, and finds the prompt in the cache when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable

from quire_engine.kv.kv_session import KvSession
from quire_engine.model.runner import Drawn
from quire_engine.sequences.request_figures import RequestFigures
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import Work
from quire_proto.gateway_link import Output, TokenLogprob
from quire_proto.wire.u32 import pack_u32

from .outbox import Outbox
from .scheduler import Scheduler


class TokenOutput:
    """Applies the results of steps for one engine.

    Args:
        figures: told of first tokens.
        next_arrival: gives branches their place in the order of arrival.
    """

    def __init__(
        self, scheduler: Scheduler, outbox: Outbox, figures: RequestFigures, next_arrival: Callable[[], int]
    ) -> None:
        self._scheduler, self._outbox, self._figures, self._next_arrival = scheduler, outbox, figures, next_arrival

    def apply(self, kv: KvSession, work: list[Work], drawn: list[Drawn]) -> None:
        """The step's work is complete and these tokens were drawn.

        What ended or was aborted since the step was launched counts for nothing.
        """
        counters = self._outbox.counters
        counters["computed_tokens"] += sum([item.rows for item in work])
        kv.computed(work)
        wanted = [t for t in drawn if not t.sequence.ended and t.index not in t.sequence.request.aborted]
        children: dict[Sequence, list[Sequence]] = {}
        for token in wanted:
            parent = token.sequence
            if parent not in children:
                children[parent] = []
                parent.index = token.index
                if self._advance(parent, token):
                    self._scheduler.remove(parent)
                    kv.finished(parent)
            else:
                branch = self._branch(parent, token.index, kv)
                if not self._advance(branch, token):
                    children[parent].append(branch)
            if not parent.request.forked:
                parent.request.forked = True
                self._figures.first_token(parent.request)
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

    def _advance(self, sequence: Sequence, drawn: Drawn) -> bool:
        """Append the tokens and deliver them; True if the continuation ends with the last."""
        request, counters = sequence.request, self._outbox.counters
        tokens, logprobs, finish, error = list[int](), list[TokenLogprob](), "", ""
        for sampled in (drawn.sampled, *drawn.behind):
            sequence.computed += bool(tokens)  # the token before was drafted
            sequence.append(sampled.token)
            if sequence.grammar is not None and (error := sequence.grammar.error):
                break
            tokens.append(sampled.token)
            if request.sampling.logprobs:
                logprobs.append(TokenLogprob(sampled.logprob, pack_u32(sampled.top_ids), sampled.top_logprobs))
            if finish := self._finish(sequence, sampled.token):
                break
        counters["generated_tokens"] += len(tokens)
        counters["forced_tokens"] += len(tokens) - 1 if tokens else 0
        if tokens:
            if request.prompt_logprobs and sequence.index == request.index:
                self._outbox.put_scores(request.id, request.index, request.prompt_logprobs)
                request.prompt_logprobs = []
            cached = max(0, request.cached_tokens)
            self._outbox.put(Output(request.id, sequence.index, pack_u32(tokens), tuple(logprobs), finish, cached))
        if error:
            self._outbox.put(Output(request.id, sequence.index, finish="error", code="grammar", message=error))
        return bool(finish or error)

    def _finish(self, sequence: Sequence, token: int) -> str:
        s = sequence.request.sampling
        if token in sequence.request.stop_ids and sequence.generated >= s.min_tokens:
            return "stop"
        if sequence.grammar is not None and sequence.grammar.ended:
            return "stop"
        if sequence.generated >= s.max_tokens or len(sequence.tokens) >= sequence.request.longest:
            return "length"
        return ""
