"""Outbox: the outputs of a step, collected and handed to the gateway in one message; and the engine's counters.

Log-probabilities of a prompt go in several messages, so that what reads them has other things to do in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from quire_engine.sequences.sequence import Sequence
from quire_proto.gateway_link import Generate, Output, Outputs, TokenLogprob

COUNTED = (
    "steps", "messages", "requests", "prompt_tokens", "computed_tokens", "generated_tokens", "drafted_tokens",
    "forced_tokens", "kvstores_lost",
)  # fmt: skip
SCORES_IN_MESSAGE = 512  # of tokens of a prompt


class Sender(Protocol):
    """What takes outputs away: the front."""

    def send(self, outputs: Outputs) -> None:
        """Take them."""
        ...


@dataclass(slots=True)
class Outbox:
    """Outputs not yet sent, and counters since the engine started."""

    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    _waiting: list[Output] = field(default_factory=list)

    def put(self, output: Output) -> None:
        """Add an output; one of no request (a publication's prefill) goes nowhere."""
        if output.request:
            self._waiting.append(output)

    def put_scores(self, request: str, index: int, scores: list[TokenLogprob]) -> None:
        """Add the log-probabilities of a prompt, of all tokens but the first, to the outputs of a continuation."""
        for first in range(0, len(scores), SCORES_IN_MESSAGE):
            piece = tuple(scores[first : first + SCORES_IN_MESSAGE])
            self.put(Output(request, index, prompt_logprobs=piece))

    def fail(self, request: Generate, code: str, message: str) -> None:
        """End all continuations of a request with an error."""
        for index in range(request.index, request.index + max(1, request.n)):
            self.put(Output(request.request, index, finish="error", code=code, message=message))

    def end(self, sequence: Sequence, finish: str, code: str, message: str) -> None:
        """End one sequence, or all continuations it still stands for."""
        for index in sequence.continuations():
            self.put(Output(sequence.request.id, index, finish=finish, code=code, message=message))

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
