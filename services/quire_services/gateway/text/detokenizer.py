"""Detokenise: token ids to text, one at a time, for one continuation.

Text goes out as soon as it cannot change any more, and a token costs the same however long the answer is and whatever
it says. What only bytes can tell is decided on bytes: in a byte-level vocabulary every token is bytes, in one with
byte fallback the tokens ``<0xE2>`` are, and an incremental UTF-8 decoder knows at every byte whether a character may
still become whole; at most three bytes wait. All other tokens depend on what stands before them only in how they are
spaced, so each is decoded behind a short window of the tokens before it, which begins as the end of the prompt (so
that the first word keeps its leading space).

Invariants: the pieces joined are what decoding all tokens at once gives - but in a run of fallback bytes that is no
UTF-8, of which the tokenizers library drops the whole characters too, and where a decoder changes earlier text. Work
and memory per token are bounded.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from quire_engine.checkpoint.token_bytes import Spelling

REPLACEMENT = "\ufffd"
PRIME_TOKENS = (4, 24)  # prompt tokens that the window begins with: at least, and at most if they cut a character
WINDOW = (4, 8)  # tokens of the window: as many are left when it is cut; it is when there are more
_EACH_BYTE = "quire-each-byte"
codecs.register_error(_EACH_BYTE, lambda error: (REPLACEMENT * (error.end - error.start), error.end))  # type: ignore[attr-defined]


class Detokenizer:
    """Text of one continuation.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``; only read.
        prompt: tokens before the continuation.
        skip_special: leave special tokens out of the text.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._vocabulary = _vocabulary(tokenizer)
        self._characters = self._vocabulary.characters()
        self._window = [] if self._vocabulary.byte_level else _prime(tokenizer, prompt, skip_special)
        self._before: str | None = None  # the window's text, once it is needed

    def push(self, token: int) -> str:
        """The text that is certain with ``token``, sometimes none."""
        if self._skip and token in self._vocabulary.special:
            return ""
        spelled = self._vocabulary.bytes_of(token)
        if spelled is None:
            return self._characters.decode(b"", final=True) + self._behind_window(token)
        if spelled and not self._vocabulary.byte_level:
            self._window.append(token)
            self._before = None
            self._cut()
        return self._characters.decode(spelled)

    def flush(self) -> str:
        """What is still held back: the bytes of an unfinished character."""
        return self._characters.decode(b"", final=True)

    def _behind_window(self, token: int) -> str:
        before = self._decode(self._window) if self._before is None else self._before
        self._window.append(token)
        self._before = self._decode(self._window)
        piece = self._before[len(before) :] if self._before.startswith(before) else self._decode([token])
        self._cut()
        return piece

    def _cut(self) -> None:
        keep, most = WINDOW
        if len(self._window) > most:
            self._window = self._window[-keep:]
            self._before = None

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=self._skip))


class _Vocabulary:
    """What the tokens of a vocabulary are made of; each is looked at once.

    Attributes:
        byte_level: every token is bytes.
        special: tokens that are skipped where special ones are.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer)
        self.byte_level = self._spelling.byte_level
        self.special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._known: dict[int, bytes | None] = {}  # at most the vocabulary

    def characters(self) -> codecs.IncrementalDecoder:
        """A decoder of one continuation's bytes. Of bytes that are no character the library makes one replacement for
        each attempt at one, or in the case of fallback one for each byte."""
        return codecs.getincrementaldecoder("utf-8")("replace" if self.byte_level else _EACH_BYTE)

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes of a token that is made of bytes, none for an id outside the vocabulary; else None."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> bytes | None:
        piece: str | None = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        spelled = self._spelling.bytes_of(piece)
        return piece.encode() if spelled is None and self.byte_level else spelled


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Any) -> _Vocabulary:
    return _Vocabulary(tokenizer)


def _prime(tokenizer: Any, prompt: Sequence[int], skip_special: bool) -> list[int]:
    """The shortest suffix of the prompt that does not end inside a character; none if there is no such."""
    least, most = PRIME_TOKENS
    for length in range(min(least, len(prompt)), min(most, len(prompt)) + 1):
        suffix = list(prompt[len(prompt) - length :])
        text = tokenizer.decode(suffix, skip_special_tokens=skip_special)
        if REPLACEMENT not in text:
            return suffix
    return []
