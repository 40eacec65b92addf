"""Intake: messages of the gateway become waiting sequences, refusals, or ends.

What can be refused is refused here, before it costs a block: an empty or too long prompt, a token the model does not
have, more continuations than an engine takes, what is no grammar.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import count

from quire_engine.kv.kv_session import KvSession
from quire_engine.kv.sequence_limits import longest
from quire_engine.sequences.sequence import Request, Sequence
from quire_kv import DomainChain
from quire_proto.gateway_link import Abort, Generate

from .grammar_queue import GrammarQueue
from .outbox import Outbox
from .scheduler import Scheduler

MAX_N = 1024


class Intake:
    """Takes requests in for one engine.

    Args:
        scheduler: whose queue they join.
        outbox: where refusals go.
        max_model_len: longest sequence, in tokens.
        vocab_size, eos_ids: of the model.
        grammars: where sequences wait for theirs.
        first: makes the sequence that a request begins as. Raises ValueError if it cannot be served.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        outbox: Outbox,
        max_model_len: int,
        vocab_size: int,
        eos_ids: frozenset[int],
        grammars: GrammarQueue,
        first: Callable[[Request, DomainChain, int], Sequence],
    ) -> None:
        self._scheduler, self._outbox, self._grammars, self._first = scheduler, outbox, grammars, first
        self._max_model_len, self._vocab_size, self._eos_ids = max_model_len, vocab_size, eos_ids
        self._arrivals = count(1)
        self._adoptions = count(-1, -1)  # before all others: their clients have waited already

    def next_arrival(self) -> int:
        """The next place in the order of arrival."""
        return next(self._arrivals)

    def accept(self, message: Generate, kv: KvSession) -> None:
        """Queue a request, or refuse it."""
        trace = self._outbox.traces.begin(message)
        try:
            request = Request.of(message, self._eos_ids)
        except ValueError as exc:
            self._outbox.fail(message, "invalid", str(exc))
            return
        request.trace = trace
        chain = kv.client.chain(request.tenant, request.prompt + message.emitted, request.salt)
        kv.match(request)
        request.longest = min(self._max_model_len, longest(kv.client, request))
        problem = self._problem(request, chain.ids)
        if problem:
            self._outbox.fail(message, *problem)
            return
        try:
            sequence = self._first(request, chain, next(self._adoptions) if message.offer else self.next_arrival())
        except ValueError as exc:
            self._outbox.fail(message, "invalid", str(exc))
            return
        sequence.handed, sequence.had, sequence.cause = message.offer, message.computed, message.cause
        self._outbox.counters["requests"] += 1
        self._outbox.counters["prompt_tokens"] += len(request.prompt) // 4
        self._scheduler.shares.weigh(request.tenant, message.weight)
        if request.sampling.grammar:
            self._grammars.hold(sequence)
        else:
            self._scheduler.add(sequence)

    def _problem(self, request: Request, tokens: array[int]) -> tuple[str, str] | None:
        if not request.prompt or max(tokens) >= self._vocab_size:
            return "invalid", f"the prompt needs at least one token, each below {self._vocab_size}"
        if len(tokens) >= request.longest:
            limit = f"at most {request.longest} tokens fit what the pool has beside its publications"
            return "too_long", f"{limit}; {len(tokens)} of the prompt leave no room for an answer"
        if not 1 <= request.n <= MAX_N:
            return "invalid", f"n must be 1 to {MAX_N}"
        if not 0 <= request.index < MAX_N or (request.n > 1 and (request.index or request.emitted)):
            return "invalid", f"index must be below {MAX_N}, and only one continuation may have it, or tokens emitted"
        if request.sampling.max_tokens <= len(request.emitted):
            return "invalid", "max_tokens must be larger than what was emitted already"
        if request.sampling.grammar and request.sampling.allowed_token_ids:
            return "invalid", "a grammar says which tokens may come, and allowed_token_ids cannot be given with it"
        if request.adjustments and request.adjustments.largest >= self._vocab_size:
            return "invalid", f"biased, allowed and bad tokens must be below {self._vocab_size}"
        return None

    def abort(self, message: Abort, kv: KvSession) -> list[Sequence]:
        """End what the client no longer wants, and return it; its blocks come back."""
        ended = []
        self._outbox.traces.unwanted(message.request, None if message.every else message.index)
        for sequence in self._scheduler.of_request(message.request):
            request = sequence.request
            request.aborted.update(request.numbers if message.every else [message.index])
            if not sequence.wanted:
                self._scheduler.remove(sequence)
                kv.finished(sequence)
                ended.append(sequence)
        return ended
