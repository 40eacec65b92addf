"""Log-probabilities in the two shapes of the API: chat's list of entries, and the older parallel lists.

JSON has no minus infinity: it is written as ``FLOOR``, as clients expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire_proto.link import TokenLogprob
from quire_proto.packed import unpack

from .token_bytes import TokenBytes

FLOOR = -9999.0


def chat_logprobs(tokens: Sequence[int], found: Sequence[TokenLogprob], names: TokenBytes, top: int) -> dict[str, Any]:
    """The ``logprobs`` object of a chat choice, with ``top`` alternatives for each token."""
    content = []
    for token, entry in zip(tokens, found, strict=False):
        alternatives = list(zip(unpack(entry.top_ids), entry.top_logprobs, strict=False))[:top]
        content.append(
            _entry(token, entry.logprob, names)
            | {"top_logprobs": [_entry(other, value, names) for other, value in alternatives]}
        )
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[int], found: Sequence[TokenLogprob], names: TokenBytes, top: int, offset: int
) -> dict[str, Any]:
    """The ``logprobs`` object of a completion choice. ``offset`` is the text position of the first token; each
    token's alternatives include the token itself."""
    out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, entry in zip(tokens, found, strict=False):
        text = _text(token, names)
        alternatives = list(zip(unpack(entry.top_ids), entry.top_logprobs, strict=False))[:top]
        out["tokens"].append(text)
        out["token_logprobs"].append(_finite(entry.logprob))
        out["top_logprobs"].append(
            {_text(other, names): _finite(value) for other, value in alternatives} | {text: _finite(entry.logprob)}
        )
        out["text_offset"].append(offset)
        offset += len(text)
    return out


def _entry(token: int, value: float, names: TokenBytes) -> dict[str, Any]:
    return {"token": _text(token, names), "logprob": _finite(value), "bytes": list(names.of(token))}


def _text(token: int, names: TokenBytes) -> str:
    return names.of(token).decode("utf-8", "replace")


def _finite(value: float) -> float:
    return max(value, FLOOR) if value == value else FLOOR
