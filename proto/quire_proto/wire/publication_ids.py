"""Ids of publications: one prompt may be published in several variants, each a publication of its own.

    agent              the first variant of the prompt ``agent``
    agent@9f86d081     another one: the prompt's id, ``@``, and the beginning of a hash of its tokens

Chats with one system prompt and one set of tools need not be the same tokens: clients write the same function in
different ways. Each way is a variant; they are published, found and taken back under the prompt's id.
"""

from __future__ import annotations

import hashlib
import re

_VARIANT_CHARS = 8
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}(@[0-9a-f]{{{_VARIANT_CHARS}}})?")


def is_publication_id(name: str) -> bool:
    """Whether a publication may be called so: 1 to 64 letters, digits or ``._-``, and the mark of a variant or none."""
    return _ID.fullmatch(name) is not None


def prompt_id(publication: str) -> str:
    """The id of the prompt that a publication is a variant of."""
    return publication.partition("@")[0]


def variant_of(packed: bytes) -> str:
    """What a variant with these tokens, packed as on the wire, is called beside its prompt's id."""
    return hashlib.sha256(packed).hexdigest()[:_VARIANT_CHARS]


def variant_id(prompt: str, packed: bytes) -> str:
    """The id of a further variant of a prompt."""
    return f"{prompt}@{variant_of(packed)}"
