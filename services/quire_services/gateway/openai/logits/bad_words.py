"""Bad words: each as the tokens that it would be written with.

A word is looked at as it stands and behind a space, since most tokenizers have other tokens for the middle of a text;
the second form counts only where it is as many tokens and begins with another one, as in vLLM. Other spellings in
tokens are not looked for: what is refused are these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.http.errors import invalid
from quire_services.gateway.templates.chat_template import PromptEncoder

MAX_TOKENS = 1024  # of all words together
_NAME = "bad_words"


def bad_words(words: Sequence[str] | None, encoder: PromptEncoder, vocab_size: int) -> tuple[bytes, ...]:
    """The field of ``Sampling``; words that the model cannot write are left out. Raises ApiError 400."""
    found = [form for word in dict.fromkeys(words or ()) for form in _forms(word, encoder)]
    if sum(map(len, found)) > MAX_TOKENS:
        raise invalid(f"{_NAME!r} are more than {MAX_TOKENS} tokens", _NAME)
    return tuple(pack_u32(form) for form in found if max(form) < vocab_size)


def _forms(word: str, encoder: PromptEncoder) -> Iterator[list[int]]:
    bare = word.lstrip()
    plain = encoder.encode(bare, add_special_tokens=False)
    if not plain:
        raise invalid(f"{_NAME!r} has a word without tokens", _NAME)
    yield plain
    spaced = encoder.encode(f" {bare}", add_special_tokens=False)
    if spaced[0] != plain[0] and len(spaced) == len(plain):
        yield spaced
