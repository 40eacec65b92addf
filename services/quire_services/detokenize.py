"""Detokenise: token ids to text, one at a time, for one continuation.

Owns the stream decoder of the tokenizers library, which holds text back while a character is incomplete. Three
things it leaves to its user are here: the last tokens of the prompt come first (so that the first word keeps its
leading space), what is still held back at the end is flushed as replacement characters, and a decoder that lost its
footing (some tokenizers change earlier text when a token is added) is replaced.

Invariant: the pieces joined are what decoding all tokens at once gives, but for such a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

REPLACEMENT = "\ufffd"
PRIME_TOKENS = (4, 24)  # prompt tokens given to the decoder: at least, and at most if they cut a character


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
        self._ids = _prime(tokenizer, prompt, skip_special)
        self._stream = DecodeStream(ids=self._ids, skip_special_tokens=skip_special)
        self._text = self._decode(self._ids)
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that ``token`` completes, often none."""
        self._ids.append(token)
        self._pending.append(token)
        try:
            piece: str | None = self._stream.step(self._tokenizer, token)
        except Exception:  # the library raises bare Exception("Invalid prefix ...")
            self._stream = DecodeStream(skip_special_tokens=self._skip)
            piece = self._stream.step(self._tokenizer, token)
        if piece is None:
            return ""
        self._pending.clear()
        self._text += piece
        return piece

    def flush(self) -> str:
        """What is still held back: the tokens of an unfinished character."""
        if not self._pending:
            return ""
        full = self._decode(self._ids)
        rest = full[len(self._text) :] if full.startswith(self._text) else self._decode(self._pending)
        self._pending.clear()
        self._text += rest
        return rest

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=self._skip))


def _prime(tokenizer: Any, prompt: Sequence[int], skip_special: bool) -> list[int]:
    """The shortest suffix of the prompt that does not end inside a character; none if there is no such."""
    least, most = PRIME_TOKENS
    for length in range(min(least, len(prompt)), min(most, len(prompt)) + 1):
        suffix = list(prompt[len(prompt) - length :])
        text = tokenizer.decode(suffix, skip_special_tokens=skip_special)
        if REPLACEMENT not in text:
            return suffix
    return []
