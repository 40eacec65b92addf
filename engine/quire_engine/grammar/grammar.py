"""A grammar, and where one sequence stands in it.

llguidance's matcher is both: the parsed grammar, shared, and a place in it, which is copied in microseconds. So a
``Grammar`` is a matcher at the beginning that nothing ever moves, and a ``GrammarState`` one that the tokens of a
sequence have moved. A place follows from the tokens alone: whoever has these can have it again, in any process.

Beside a grammar there may be a likely one, of what a model most likely writes of all that the first allows. It forbids
nothing: texts are foreseen by it as long as a sequence keeps to it.

Nothing here raises for what a model writes or a client asks. A matcher that cannot go on says why in ``error``, allows
the end and nothing else, and stays so.
"""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLMatcher

from .speller import SpelledTexts

DEAD_END = "the model has no token with which the answer could go on as the grammar says"


class GrammarState:
    """A place in a grammar."""

    __slots__ = ("_dead_end", "_likely", "_texts", "matcher")

    def __init__(self, matcher: LLMatcher, texts: SpelledTexts, likely: LLMatcher | None = None) -> None:
        self.matcher = matcher
        self._texts = texts
        self._likely = likely
        self._dead_end = False

    def accept(self, tokens: Sequence[int]) -> None:
        """Go on behind these tokens; one that the grammar does not allow here is an ``error``."""
        self.matcher.consume_tokens(list(tokens))
        if self._likely is not None and self._likely.try_consume_tokens(list(tokens)) < len(tokens):
            self._likely = None

    def clone(self) -> GrammarState:
        """The same place, from which another sequence goes on."""
        return GrammarState(self.matcher.deep_copy(), self._texts, self._likely and self._likely.deep_copy())

    @property
    def ended(self) -> bool:
        """Nothing can follow, not even a token that ends the answer."""
        return bool(self.matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """What was accepted is an answer as it is."""
        return bool(self.matcher.is_accepting())

    def foreseen(self, most: int) -> tuple[int, ...]:
        """The tokens that probably come next, where the text that comes is certain, or would be if the sequence kept to
        the likely grammar; in place of each of them another may come."""
        # A matcher that was asked for forced bytes allows no others in its masks: so it is a copy that is asked.
        text = (self._likely or self.matcher).deep_copy().compute_ff_bytes()
        tokens = self._texts.tokens_of(text)[:most] if text else ()
        if not tokens:
            return ()
        there = self.matcher.deep_copy()
        count = there.try_consume_tokens(list(tokens))
        return tokens[: count - 1 if there.is_stopped() else count]

    @property
    def error(self) -> str:
        """Why the matcher cannot go on, if it cannot."""
        found = said(self.matcher)
        return DEAD_END if self._dead_end or found == "NoExtensionBias" else found

    def dead_end(self) -> None:
        """The grammar goes on with bytes that no token of the vocabulary begins with."""
        self._dead_end = True


class Grammar:
    """A grammar that was compiled."""

    def __init__(self, matcher: LLMatcher, texts: SpelledTexts, likely: LLMatcher | None = None) -> None:
        self._beginning, self._texts, self._likely = matcher, texts, likely

    def after(self, tokens: Sequence[int]) -> GrammarState:
        """The place behind ``tokens``, counted from the beginning of the answer."""
        state = GrammarState(self._beginning.deep_copy(), self._texts, self._likely and self._likely.deep_copy())
        if tokens:
            state.accept(tokens)
        return state


def said(matcher: LLMatcher) -> str:
    """The first line of a matcher's error, if it has one."""
    return str(matcher.get_error()).strip().partition("\n")[0] if matcher.is_error() else ""
