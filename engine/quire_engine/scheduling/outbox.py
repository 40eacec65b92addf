"""Outbox: the outputs of a step, collected and handed to the gateway in one message; and the engine's counters.

Log-probabilities of a prompt go in several messages, so that what reads them has other things to do in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from quire_engine.kv.kv_session import PREEMPTION
from quire_engine.sequences.request_traces import RequestTraces
from quire_engine.sequences.sequence import Sequence
from quire_proto.gateway_link import HANDOFF, LOSS, Generate, Output, Outputs, TokenLogprob

COUNTED = (
    "steps", "messages", "requests", "prompt_tokens", "computed_tokens", "generated_tokens", "drafted_tokens",
    "forced_tokens", "kvstores_lost", "offered", "adopted", "replayed_steps",
)  # fmt: skip
RECOMPUTED = {cause: f"recomputed_{cause}_tokens" for cause in (HANDOFF, LOSS, PREEMPTION)}
SCORES_IN_MESSAGE = 512  # of tokens of a prompt


class Sender(Protocol):
    """What takes outputs away: the front."""

    def send(self, outputs: Outputs) -> None:
        """Take them."""
        ...


@dataclass(slots=True)
class Outbox:
    """Outputs not yet sent, and counters since the engine started. ``traces``: told of what is sent."""

    traces: RequestTraces = field(default_factory=RequestTraces)
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*COUNTED, *RECOMPUTED.values()), 0))
    _waiting: list[Output] = field(default_factory=list)

    def put(self, output: Output) -> None:
        """Add an output; one of no request (a publication's prefill) goes nowhere."""
        if output.request:
            self._waiting.append(output)
            if self.traces.open:
                self.traces.said(output)

    def put_scores(self, request: str, index: int, scores: list[TokenLogprob]) -> None:
        """Add the log-probabilities of a prompt, of all tokens but the first, to the outputs of a continuation."""
        for first in range(0, len(scores), SCORES_IN_MESSAGE):
            piece = tuple(scores[first : first + SCORES_IN_MESSAGE])
            self.put(Output(request, index, prompt_logprobs=piece))

    def fail(self, request: Generate, code: str, message: str) -> None:
        """End all continuations of a request with an error."""
        for index in range(request.index, request.index + max(1, request.n)):
            self.put(Output(request.request, index, finish="error", code=code, message=message))

    def end(self, sequence: Sequence, finish: str, code: str, message: str, missing: int = 0) -> None:
        """End one sequence, or all continuations it still stands for; ``missing``: blocks of its tenant's limit."""
        for index in sequence.continuations():
            self.put(Output(sequence.request.id, index, finish=finish, code=code, message=message, missing=missing))

    def give_back(self, sequence: Sequence, computed: int, offer: bytes = b"") -> None:
        """All continuations that it stands for are to go on elsewhere; what is computed of it is offered, or lost."""
        request, cached = sequence.request, max(0, sequence.request.cached_tokens)
        for index in sequence.continuations():
            self.put(Output(request.id, index, finish="abort", cached_tokens=cached, offer=offer, computed=computed))

    def begin(self, sequence: Sequence) -> bool:
        """A sequence has its table: what was computed of it before and is not there is computed again. Whether it is
        the request's first."""
        request = sequence.request
        first = request.cached_tokens < 0
        if first:
            # What of the prompt, and of what was generated elsewhere, was a hit when it was first admitted. It is said
            # at once: where the answer goes on if this engine dies, what it computes meanwhile is a hit as well.
            request.cached_tokens = cached = min(sequence.computed, len(request.prompt) // 4 + len(request.emitted))
            self.put(Output(request.id, request.index, cached_tokens=cached))
            if request.trace is not None:
                request.trace.admitted(cached)
        if sequence.had > sequence.computed and sequence.cause in RECOMPUTED:
            self.counters[RECOMPUTED[sequence.cause]] += sequence.had - sequence.computed
        sequence.had = 0
        return first

    def flush(self, to: Sender) -> None:
        """Send what has been put."""
        first = 0
        for place, output in enumerate(self._waiting, 1):
            if output.prompt_logprobs or place == len(self._waiting):
                to.send(Outputs(tuple(self._waiting[first:place])))
                first = place
        self._waiting = []

    def drop(self) -> None:
        """Forget what has been put: it must not be delivered."""
        self._waiting = []
