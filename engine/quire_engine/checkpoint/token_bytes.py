"""The exact bytes of a single token, for log-probabilities and for text that streams.

A token of a byte-level vocabulary may be half a character, so its text is not enough: clients join ``bytes``. The
vocabulary spells such tokens in an alphabet of printable stand-ins (ByteLevel) or as ``<0xE2>`` (ByteFallback);
which one is read once from the tokenizer's own description of its decoder.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

_HEX = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """How a vocabulary spells bytes, as the description of its decoder says.

    Attributes:
        byte_level: every token is bytes, in the alphabet of stand-ins.
        metaspace: the sign U+2581 stands for a space.
    """

    def __init__(self, tokenizer: Any) -> None:
        state = tokenizer.decoder.__getstate__() if tokenizer.decoder is not None else b"{}"
        decoder = json.dumps(json.loads(state), ensure_ascii=False)
        self.byte_level = '"ByteLevel"' in decoder
        self.metaspace = "\u2581" in decoder
        self._byte_fallback = '"ByteFallback"' in decoder

    def bytes_of(self, piece: str) -> bytes | None:
        """The bytes that a token spelled like this stands for, None if it is no spelling of bytes."""
        if self.byte_level and all(char in byte_alphabet() for char in piece):
            return bytes(byte_alphabet()[char] for char in piece)
        if self._byte_fallback and (match := _HEX.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        return None


class TokenBytes:
    """Token id -> bytes, for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer)
        self._added = {i: str(t.content) for i, t in tokenizer.get_added_tokens_decoder().items()}

    def of(self, token: int) -> bytes:
        """The bytes that ``token`` stands for; empty for an id outside the vocabulary."""
        if token in self._added:
            return self._added[token].encode()
        piece: str | None = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if (spelled := self._spelling.bytes_of(piece)) is not None:
            return spelled
        return (piece.replace("\u2581", " ") if self._spelling.metaspace else piece).encode()


@cache
def byte_alphabet() -> dict[str, int]:
    """Stand-in character -> byte: printable Latin-1 bytes stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
