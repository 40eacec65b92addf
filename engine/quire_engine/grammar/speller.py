"""Speller: a text that must come, as the tokens that a model most likely writes it in.

Those are the tokenizer's own. At the end of the text a model may take a token that reaches beyond it, so the tokens
there are left out, from the first one on at whose place such a token could begin.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from llguidance import LLTokenizer

LONGEST_TEXT = 1024  # bytes of a text that are looked at
TEXTS = 256  # texts
_SPECIAL = re.compile(rb"\xff\[(\d+)\]")  # how llguidance writes a special token among bytes


class Speller:
    """Spells texts in the tokens of one vocabulary.

    Args:
        tree: asks the tokenizer.
        spelled: the bytes of every token.
        special: tokens that no text contains.
    """

    def __init__(self, tree: LLTokenizer, spelled: Sequence[bytes], special: Iterable[int]) -> None:
        self._tree, self._bytes, no_text = tree, spelled, set(special)
        # By their first two bytes and sorted each by itself: all in one go would keep the engine's loop waiting.
        self._begin_with: dict[bytes, list[bytes]] = {}
        for token, text in enumerate(spelled):
            if len(text) > 1 and token not in no_text:
                self._begin_with.setdefault(text[:2], []).append(text)
        for texts in self._begin_with.values():
            texts.sort()
        self._first_of_more = {pair[:1] for pair in self._begin_with}
        self._longest = max((len(text) for texts in self._begin_with.values() for text in texts), default=1)

    def tokens_of(self, text: bytes) -> tuple[int, ...]:
        """A text that something follows."""
        found, cut = list[int](), len(text) > LONGEST_TEXT
        pieces = _SPECIAL.split(text[:LONGEST_TEXT])
        for place, piece in enumerate(pieces):
            found += [int(piece)] if place % 2 else self._tree.tokenize_bytes(piece)
        if pieces[-1] or cut:
            found = self._certain(found, len(pieces[-1]))
        return tuple(found)

    def _certain(self, tokens: list[int], ending: int) -> list[int]:
        """Without those that a longer token could take the place of; ``ending``: bytes behind the last special one."""
        tail, last = b"", len(tokens)
        for place in range(len(tokens) - 1, -1, -1):
            tail = self._bytes[tokens[place]] + tail
            if len(tail) > ending or len(tail) >= self._longest:
                break
            if self._reaches_beyond(tail):
                last = place
        return tokens[:last]

    def _reaches_beyond(self, text: bytes) -> bool:
        """Whether a token begins with this text and has more."""
        if len(text) == 1:
            return text in self._first_of_more
        texts = self._begin_with.get(text[:2], [])
        place = bisect_right(texts, text)
        return place < len(texts) and texts[place].startswith(text)


class SpelledTexts:
    """Texts that one grammar forced before are known: not those of others, whose owners that is no concern of."""

    def __init__(self, speller: Speller) -> None:
        self._speller = speller
        self._kept: dict[bytes, tuple[int, ...]] = {}

    def tokens_of(self, text: bytes) -> tuple[int, ...]:
        """A text that something follows."""
        text = text[: LONGEST_TEXT + 1]  # more would not matter, and is not to be kept
        found = self._kept.get(text)
        if found is None:
            if len(self._kept) >= TEXTS:
                self._kept.clear()
            found = self._kept[text] = self._speller.tokens_of(text)
        return found
