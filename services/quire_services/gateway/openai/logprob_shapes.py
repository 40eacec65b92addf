"""Log-probabilities in the two shapes of the API: chat's list of entries, and the older parallel lists.

JSON has no minus infinity: it is written as ``FLOOR``, as clients expect.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_proto.gateway_link import TokenLogprob
from quire_proto.wire.u32 import unpack_u32

FLOOR = -9999.0


def chat_logprobs(
    tokens: Sequence[int], found: Sequence[TokenLogprob], names: TokenBytes, top: int, as_ids: bool = False
) -> dict[str, Any]:
    """The ``logprobs`` object of a chat choice, with ``top`` alternatives for each token. ``as_ids``: tokens are
    called ``token_id:N``; their bytes stay."""
    content = []
    for token, entry in zip(tokens, found, strict=False):
        alternatives = list(zip(unpack_u32(entry.top_ids), entry.top_logprobs, strict=False))[:top]
        content.append(
            _entry(token, entry.logprob, names, as_ids)
            | {"top_logprobs": [_entry(other, value, names, as_ids) for other, value in alternatives]}
        )
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[int],
    found: Sequence[TokenLogprob],
    names: TokenBytes,
    top: int,
    offset: int,
    as_ids: bool = False,
) -> dict[str, Any]:
    """The ``logprobs`` object of a completion choice. ``offset`` is the text position of the first token; each
    token's alternatives include the token itself. A piece of a character is written ``bytes:\\xe2\\x80``, as OpenAI
    does, and a token whose text is that of another in its row ``token_id:N``: each has a key of its own. ``as_ids``:
    all are called ``token_id:N``."""
    out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, entry in zip(tokens, found, strict=False):
        alternatives = dict(list(zip(unpack_u32(entry.top_ids), entry.top_logprobs, strict=False))[:top])
        keys = {token: _id(token) if as_ids else _key(token, names, ())}
        for other in alternatives:
            keys.setdefault(other, _id(other) if as_ids else _key(other, names, keys.values()))
        row = {keys[other]: finite(value) for other, value in {**alternatives, token: entry.logprob}.items()}
        out["tokens"].append(keys[token])
        out["token_logprobs"].append(finite(entry.logprob))
        out["top_logprobs"].append(row)
        out["text_offset"].append(offset)
        offset += characters(names.of(token))
    return out


def characters(spelled: bytes) -> int:
    """How many characters begin in these bytes: pieces of one character count once in all."""
    return sum(byte & 0xC0 != 0x80 for byte in spelled)


def _entry(token: int, value: float, names: TokenBytes, as_ids: bool) -> dict[str, Any]:
    spelled = names.of(token)
    name = _id(token) if as_ids else spelled.decode("utf-8", "replace")
    return {"token": name, "logprob": finite(value), "bytes": list(spelled)}


def _id(token: int) -> str:
    return f"token_id:{token}"


def _key(token: int, names: TokenBytes, taken: Collection[str]) -> str:
    """The token's text, or another name that ``taken`` does not have."""
    spelled = names.of(token)
    try:
        key = spelled.decode()
    except UnicodeDecodeError:
        key = "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
    return key if key not in taken else _id(token)


def finite(value: float) -> float:
    """The value as JSON can have it."""
    return max(value, FLOOR) if value == value else FLOOR
