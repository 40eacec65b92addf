"""Choices: one continuation's tokens becoming text, with stop strings, log-probabilities and a reason to finish.

Tokens are taken one at a time, so that the cut at a stop string is exact: tokens after the one that completed it
count for nothing. The token that ended a continuation (end of sequence, or one of ``stop_token_ids``) counts as
generated but has no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quire_proto.link import Output, TokenLogprob
from quire_proto.packed import unpack

from .detokenize import Detokenizer
from .stopping import StopStrings


@dataclass(slots=True)
class Delta:
    """What one output adds to a choice. ``finish`` is None while it goes on; ``cut`` says that it ended at a stop
    string, which the engine does not know."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    cut: bool = False


class Choice:
    """One continuation of one prompt.

    Args:
        index: its number in the answer.
        stops: stop strings, not looked for in the first ``min_tokens`` tokens.
        silent: tokens that have no text when they end the continuation.

    Attributes:
        tokens: number of tokens generated.
        cut: it ended at a stop string; outputs that were under way are not to be fed.
    """

    def __init__(
        self, index: int, detokenizer: Detokenizer, stops: Sequence[str], min_tokens: int, silent: frozenset[int]
    ) -> None:
        self.index = index
        self.tokens = 0
        self.cut = False
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._min_tokens = min_tokens
        self._silent = silent

    def feed(self, output: Output) -> Delta:
        """Take an output of the engine."""
        delta = Delta()
        tokens = unpack(output.tokens)
        for place, token in enumerate(tokens):
            self.tokens += 1
            delta.tokens.append(token)
            if place < len(output.logprobs):
                delta.logprobs.append(output.logprobs[place])
            last = output.finish == "stop" and place == len(tokens) - 1
            if not (last and token in self._silent):
                delta.text += self._release(self._detokenizer.push(token))
            if self._stops.hit:
                self.cut = delta.cut = True
                delta.finish = "stop"
                return delta
        if output.finish:
            delta.text += self._release(self._detokenizer.flush()) + self._stops.flush()
            delta.finish = "stop" if self._stops.hit else output.finish
        return delta

    def _release(self, piece: str) -> str:
        return self._stops.push(piece) if self.tokens > self._min_tokens else piece
