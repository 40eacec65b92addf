"""One pattern for many words, as a tree of their letters: a tokenizer may have thousands of special tokens, and trying
one after the other at every ``<`` of a text takes a thousand times as long."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable


def any_of(words: Iterable[str]) -> str:
    """A regular expression for the longest of these words at a place; it matches nothing if there are none."""
    given = set(words) - {""}
    return _tree(given) if given else "(?!)"


def _tree(words: set[str]) -> str:
    rests: defaultdict[str, set[str]] = defaultdict(set)
    for word in words - {""}:
        rests[word[0]].add(word[1:])
    branches = [re.escape(letter) + _tree(rest) for letter, rest in sorted(rests.items())]
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)})" + "?" * ("" in words)
