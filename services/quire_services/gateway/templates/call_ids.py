"""Ids of tool calls in nine letters and digits, for the templates that take no others (Mistral's).

Invariants: the call and its answer get the same id; two ids never become one; an id that fits stays. An id becomes
the same in every request (but for a clash in 62^9), so that a conversation keeps its tokens when it goes on, or when
the client leaves its oldest turns out.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable

ID_LENGTH = 9
_FITS = re.compile(rf"[A-Za-z0-9]{{{ID_LENGTH}}}")
_DIGITS = string.digits + string.ascii_letters


def nine_characters(ids: Iterable[str]) -> dict[str, str]:
    """Id -> id that fits, for all ids of a conversation in their order."""
    order = list(dict.fromkeys(ids))
    out = {identity: identity for identity in order if _FITS.fullmatch(identity)}
    taken = set(out)
    for identity in order:
        if identity in out:
            continue
        again = 0
        while (short := _short(identity, again)) in taken:
            again += 1
        out[identity] = short
        taken.add(short)
    return out


def _short(identity: str, again: int) -> str:
    number = int.from_bytes(hashlib.sha256(f"{again}:{identity}".encode("utf-8", "surrogatepass")).digest())
    return "".join(_DIGITS[number // len(_DIGITS) ** place % len(_DIGITS)] for place in range(ID_LENGTH))
