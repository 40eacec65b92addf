"""Choices: one continuation's tokens becoming text, with stop strings, log-probabilities and a reason to finish.

Tokens are taken one at a time, so that the cut at a stop string is exact: tokens after the one that completed it
count for nothing. The token that ended a continuation (end of sequence, or one of ``stop_token_ids``) counts as
generated but has no text. Where a stop string spells a special token, that token's spelling is looked at though it
is no part of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quire_proto.gateway_link import Output, TokenLogprob
from quire_proto.wire.u32 import unpack_u32

from .detokenizer import Detokenizer
from .stop_strings import StopStrings


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
        spelled: special tokens that stop strings spell.

    Attributes:
        tokens: number of tokens generated.
        cut: it ended at a stop string; outputs that were under way are not to be fed.
    """

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        min_tokens: int,
        silent: frozenset[int],
        spelled: Mapping[int, str],
    ) -> None:
        self.index = index
        self.tokens = 0
        self.cut = False
        self._detokenizer = detokenizer
        self._spelled = spelled
        spelling = [stop for stop in stops if any(word in stop for word in spelled.values())]
        self._spelling_stops = StopStrings(spelling)  # these see what special tokens spell, the others do not
        self._stops = StopStrings([stop for stop in stops if stop not in spelling])
        self._min_tokens = min_tokens
        self._silent = silent

    def feed(self, output: Output) -> Delta:
        """Take an output of the engine."""
        delta = Delta()
        tokens = unpack_u32(output.tokens)
        for place, token in enumerate(tokens):
            self.tokens += 1
            delta.tokens.append(token)
            if place < len(output.logprobs):
                delta.logprobs.append(output.logprobs[place])
            last = output.finish == "stop" and place == len(tokens) - 1
            piece = "" if last and token in self._silent else self._detokenizer.push(token)
            delta.text += self._release(piece, "" if piece else self._spelled.get(token, ""))
            if self._hit():
                self.cut = delta.cut = True
                delta.finish = "stop"
                return delta
        if output.finish:
            delta.text += self._release(self._detokenizer.flush()) + self._flush()
            delta.finish = "stop" if self._hit() else output.finish
        return delta

    def _release(self, piece: str, not_shown: str = "") -> str:
        """What can be sent of a piece of text and of what is looked at behind it."""
        if self.tokens <= self._min_tokens:
            return piece
        text = self._stops.push(self._spelling_stops.push(piece))
        if not_shown and not self._hit():
            text += self._stops.push(self._spelling_stops.push(not_shown, shown=False))
        return text + self._stops.flush() if self._spelling_stops.hit and not self._stops.hit else text

    def _flush(self) -> str:
        """What is still held back, at the end."""
        return "" if self._hit() else self._stops.push(self._spelling_stops.flush()) + self._stops.flush()

    def _hit(self) -> bool:
        return self._stops.hit or self._spelling_stops.hit
