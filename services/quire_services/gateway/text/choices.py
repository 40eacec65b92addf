"""Choices: one continuation's tokens becoming text, with stop strings, log-probabilities and a reason to finish.

Tokens are taken one at a time, so that the cut at a stop string is exact: tokens after the one that completed it
count for nothing. The token that ended a continuation (end of sequence, or one of ``stop_token_ids``) counts as
generated but has no text. Where a stop string spells a special token, that token's spelling is looked at though it
is no part of the text.

Of a chat's answer the text goes on to a parser, which finds the tool calls and the reasoning in it. Stop strings come
first: they cut what the model writes, calls too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from quire_proto.gateway_link import Output, TokenLogprob
from quire_proto.wire.u32 import unpack_u32
from quire_services.gateway.tools.model_answers import AnyParser
from quire_services.gateway.tools.parser.events import AnswerEvent, ContentDelta, ToolCallEnd

from .detokenizer import Detokenizer
from .stop_strings import StopStrings


@dataclass(slots=True)
class Delta:
    """What one output adds to a choice. ``finish`` is None while it goes on; ``cut`` says that it ended at a stop
    string or with its call, which the engine does not know. ``stop`` is the stop string that ended it. ``events`` are
    what the text turned out to be."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    cut: bool = False
    stop: str | None = None
    events: list[AnswerEvent] = field(default_factory=list)


class Choice:
    """One continuation of one prompt.

    Args:
        index: its number in the answer.
        stops: stop strings, not looked for in the first ``min_tokens`` tokens.
        silent: tokens that have no text when they end the continuation.
        spelled: special tokens that stop strings spell.
        parser: of the answer; None: all text is content.
        specials: special tokens and their spelling; the parser is told of those that it knows.
        one_call: the answer ends with its first tool call.
        with_stop: the stop string that ends it is part of the text, and so is the text of a ``silent`` token.
        mute: nothing is wanted of what is generated.

    Attributes:
        tokens: number of tokens generated.
        cut: it ended at a stop string or with its call; outputs that were under way are not to be fed.
    """

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        min_tokens: int,
        silent: frozenset[int],
        spelled: Mapping[int, str],
        parser: AnyParser | None = None,
        specials: Mapping[int, str] | None = None,
        one_call: bool = False,
        with_stop: bool = False,
        mute: bool = False,
    ) -> None:
        self.index = index
        self.tokens = 0
        self.cut = False
        self._detokenizer = detokenizer
        self._spelled = spelled
        self._parser = parser
        self._specials = specials or {}
        self._one_call = one_call
        self._as_asked = self._marked_stops(stops)
        stops = [*stops, *self._as_asked]
        spelling = [stop for stop in stops if any(word in stop for word in spelled.values())]
        others = [stop for stop in stops if stop not in spelling]
        self._spelling_stops = StopStrings(spelling, with_stop)  # these see what special tokens spell
        self._stops = StopStrings(others, with_stop)  # and these do not
        self._min_tokens = min_tokens
        self._mute = mute
        self._silent = frozenset() if with_stop else silent
        self._untold = 0  # tokens that no event has counted yet

    def feed(self, output: Output) -> Delta:
        """Take an output of the engine."""
        if self._mute:
            return Delta(finish="length" if output.finish else None)
        delta = self._text(output)
        if self._parser:
            delta.events = self._parser.feed_marked(delta.text)
            if delta.finish:
                delta.events += self._parser.finish()
            if self._one_call:
                self._cut_behind_call(delta)
        elif delta.text:
            delta.events = [ContentDelta(delta.text)]
        self._count_into_events(delta)
        return delta

    def _count_into_events(self, delta: Delta) -> None:
        """Say of the last event how many tokens came up to it; the one that ended the answer counts for none."""
        ended = delta.finish == "stop" and not delta.cut and delta.tokens[-1:] and delta.tokens[-1] in self._silent
        self._untold += len(delta.tokens) - bool(ended)
        if delta.events:
            delta.events[-1] = replace(delta.events[-1], tokens=self._untold)
            self._untold = 0

    def _cut_behind_call(self, delta: Delta) -> None:
        """End the answer with its first call, if that is complete."""
        ends = [place for place, event in enumerate(delta.events) if isinstance(event, ToolCallEnd)]
        if ends:
            del delta.events[ends[0] + 1 :]
            delta.finish, delta.cut, self.cut = delta.finish or "stop", True, True

    def _text(self, output: Output) -> Delta:
        """What an output adds, its text as the parser wants it."""
        delta = Delta()
        tokens = unpack_u32(output.tokens)
        for place, token in enumerate(tokens):
            self.tokens += 1
            delta.tokens.append(token)
            if place < len(output.logprobs):
                delta.logprobs.append(output.logprobs[place])
            last = output.finish == "stop" and place == len(tokens) - 1
            piece = "" if last and token in self._silent else self._piece(token)
            delta.text += self._release(piece, "" if piece else self._spelled.get(token, ""))
            if self._hit():
                self.cut = delta.cut = True
                delta.finish, delta.stop = "stop", self._stop()
                return delta
        if output.finish:
            delta.text += self._release(self._marked(self._detokenizer.flush())) + self._flush()
            delta.finish, delta.stop = "stop" if self._hit() else output.finish, self._stop()
        return delta

    def _piece(self, token: int) -> str:
        """The text that is certain with a token; a special token that the parser knows is its mark."""
        if self._parser and (mark := self._mark(self._specials.get(token, ""))):
            return self._marked(self._detokenizer.flush()) + mark
        return self._marked(self._detokenizer.push(token))

    def _mark(self, special: str) -> str:
        return self._parser.mark(special) if self._parser else ""

    def _marked(self, text: str) -> str:
        return self._parser.marked(text) if self._parser and text else text

    def _marked_stops(self, stops: Sequence[str]) -> dict[str, str]:
        """Stop strings that spell special tokens which the parser knows, with the marks that stand for these -> as they
        were asked for."""
        found = {}
        for stop in stops:
            marked = stop
            for special in sorted(self._spelled.values(), key=len, reverse=True):
                marked = marked.replace(special, self._mark(special) or special)
            if marked != stop:
                found[marked] = stop
        return found

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

    def _stop(self) -> str | None:
        """The stop string that was found, as it was asked for."""
        found = self._stops.found or self._spelling_stops.found
        return self._as_asked.get(found, found) if found else None
