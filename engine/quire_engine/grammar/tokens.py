"""Tokens: a vocabulary as grammars need it, and as the tree of bytes that llguidance walks.

Where a grammar allows one text only, the tokenizer is asked which tokens a model would write it in. What it answers
must spell the text, byte for byte, or it would not be what the grammar allows. Tokenizers that put a space before a
text are asked for it behind a sign that no text contains; where that does not help either, the longest tokens that fit
are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from llguidance import LLTokenizer

from .mask_rows import WORD, words_of

PRINTABLE = range(0x20, 0x7F)  # what a vocabulary must have by itself: else it could not spell JSON
SIGN = "\x02"


class Tokens(Protocol):
    """What a grammar must know of a vocabulary: each token's bytes, and which tokens are no text."""

    @property
    def spelled(self) -> Sequence[bytes]:
        """The bytes of every token, by id; nothing where no token is."""
        ...

    @property
    def special(self) -> Sequence[int]:
        """Tokens that no text contains."""
        ...

    @property
    def ends(self) -> Sequence[int]:
        """Tokens that end an answer."""
        ...

    def encode(self, text: str, /) -> list[int]:
        """A text as tokens."""
        ...


class VocabularyRefused(ValueError):
    """A vocabulary that cannot spell what grammars speak of."""


class _Vocabulary:
    """A vocabulary as llguidance asks for it, with empty places up to the width of a mask."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Tokens) -> None:
        self._encode = tokens.encode
        size = len(tokens.spelled)
        self.tokens = [*tokens.spelled, *[b""] * (WORD * words_of(size) - size)]
        # Without a token that ends an answer an empty place stands for it, which the model cannot choose.
        self.ends = list(tokens.ends) or [size]
        self.eos_token_id = self.ends[0]
        self.special_token_ids = sorted({*tokens.special, *self.ends})
        special = set(self.special_token_ids)
        self._plain = {text: token for token, text in enumerate(self.tokens) if text and token not in special}
        self._longest = max(map(len, self._plain), default=0)
        missing = [chr(byte) for byte in PRINTABLE if bytes([byte]) not in self._plain]
        if missing:
            raise VocabularyRefused(f"the model has no token for {missing[0]!r} alone")

    def __call__(self, text: bytes | str) -> list[int]:
        given = text.encode() if isinstance(text, str) else text
        with suppress(UnicodeDecodeError):
            for before in ("", SIGN):
                found = self._encode(before + given.decode())[len(self._encode(before)) if before else 0 :]
                if b"".join(self.tokens[token] for token in found) == given:
                    return found
        return self._longest_first(given)

    def _longest_first(self, given: bytes) -> list[int]:
        """The longest token at each place, as far as there is one."""
        found, at = list[int](), 0
        while at < len(given):
            sizes = range(min(self._longest, len(given) - at), 0, -1)
            token = next((self._plain[given[at : at + n]] for n in sizes if given[at : at + n] in self._plain), None)
            if token is None:
                break
            found.append(token)
            at += len(self.tokens[token])
        return found


def tree_of(tokens: Tokens) -> LLTokenizer:
    """A vocabulary as a tree of bytes; takes a second for a large one. Raises VocabularyRefused."""
    wrapper = _Vocabulary(tokens)
    return LLTokenizer(wrapper, eos_token=wrapper.ends)  # type: ignore[arg-type]
