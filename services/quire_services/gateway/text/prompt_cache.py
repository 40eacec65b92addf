"""Prompt cache: the long segments of conversations are encoded once for a tenant.

Agents send one system prompt with every request, and a conversation sends all its turns again. Encoding them anew each
time costs a millisecond or more for 2,000 tokens, on the cores that prefill needs.

A text may be cut in front of a special token without changing its tokens: the tokenizers library looks for special
tokens first, and treats what lies between them piece by piece. (Only whether a piece is the first of its text matters
to some; a segment begins with its special token, so its text is never that.) Tokenizers whose special tokens swallow
neighbouring spaces or look at whole words, or that draw lots, are not cut.

Invariants: the tokens are those of encoding the whole text. What one tenant sent changes neither the tokens nor, but
for the library's own cache of words, the time of another's requests: segments and their bound are a tenant's own.
"""

from __future__ import annotations

import re
import threading
from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from .word_pattern import any_of

LONG_SEGMENT_CHARS = 512  # characters from which a segment is worth keeping
KEPT_CHARS = 1 << 20  # characters kept for a tenant: with its tokens, about 3 MB


class PromptCache:
    """Encodes texts with special tokens in them.

    Args:
        backend: a ``tokenizers.Tokenizer`` that neither truncates nor pads; only read.
        long, kept: bounds, in characters.
    """

    def __init__(self, backend: Any, long: int = LONG_SEGMENT_CHARS, kept: int = KEPT_CHARS) -> None:
        self._backend = backend
        self._marks = _marks(backend)
        self._long = long
        self._tenants: defaultdict[str, _TenantSegments] = defaultdict(lambda: _TenantSegments(kept))
        self._lock = threading.Lock()  # a loop and a thread encode

    def encode(self, text: str, tenant: str | None) -> list[int]:
        """Token ids of a text; none are added to those it spells. Without a tenant nothing is kept or found."""
        if self._marks is None or tenant is None or len(text) < self._long:
            return self._plain(text)
        ids: list[int] = []
        for part in _parts(text, self._marks, self._long):
            ids += self._part(part, tenant) if len(part) >= self._long else self._plain(part)
        return ids

    def _part(self, part: str, tenant: str) -> array[int] | list[int]:
        with self._lock:
            kept = self._tenants[tenant]
            if (found := kept.get(part)) is not None:
                return found
        ids = self._plain(part)
        with self._lock:
            kept.put(part, array("I", ids))
        return ids

    def _plain(self, text: str) -> list[int]:
        return token_ids(self._backend, text, add_special_tokens=False)


def token_ids(backend: Any, text: str, *, add_special_tokens: bool) -> list[int]:
    """Token ids of a text. Of the library's ways this is the one that gives the interpreter's lock back meanwhile, and
    it leaves out the places of the tokens: a third less time and memory for a long text."""
    ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
    return ids


class _TenantSegments:
    """Segments of one tenant, the least recently used given up first."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._tokens: OrderedDict[str, array[int]] = OrderedDict()

    def get(self, part: str) -> array[int] | None:
        found = self._tokens.get(part)
        if found is not None:
            self._tokens.move_to_end(part)
        return found

    def put(self, part: str, tokens: array[int]) -> None:
        if part in self._tokens or len(part) > self._most:
            return
        self._tokens[part] = tokens
        self._size += len(part)
        while self._size > self._most:
            self._size -= len(self._tokens.popitem(last=False)[0])


def _parts(text: str, marks: re.Pattern[str], long: int) -> Iterator[str]:
    """The text in parts that begin with special tokens (the first begins where it begins): long segments each alone,
    what lies between them together."""
    cuts = [0, *(found.start() for found in marks.finditer(text) if found.start()), len(text)]
    begin = 0  # of what was not yielded yet
    for start, end in pairwise(cuts):
        if end - start >= long:
            if begin < start:
                yield text[begin:start]
            yield text[start:end]
            begin = end
    if begin < len(text):
        yield text[begin:]


def _marks(backend: Any) -> re.Pattern[str] | None:
    """What finds the special tokens of a text as the library does, leftmost and longest; None if it may not be cut."""
    added = list(backend.get_added_tokens_decoder().values())
    if backend.encode_special_tokens or getattr(backend.model, "dropout", None):
        return None
    if any(token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    # Those that are looked for in normalised text are found after the others, within the pieces.
    spelled = [token.content for token in added if not token.normalized and token.content]
    return re.compile(any_of(spelled)) if spelled else None
