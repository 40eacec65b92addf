"""Rendering of published prompts: from a text file to the tokens that every request with that prompt begins with.

A system prompt alone does not say which tokens a request will begin with: the chat template decides what stands
around it, and a tokenizer may merge its last characters with what follows. So the prompt is rendered with several
user messages that differ from their first character on, and the longest common token prefix is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from .chat_template import PromptEncoder
from .errors_http import ApiError

# Letters, digits, marks, space, another script: tokenizers merge each of them differently with what stands before.
_BEGINNINGS = ("a", "The quick", "Zx", "7", "42 ", "\n", "  b", "{", "'", "-", "é", "中", "🙂")


class PublishError(Exception):
    """A prompt cannot be published; one line says why."""


def read_prompt(file: Path) -> str:
    """The text of a prompt file; raises PublishError if there is none."""
    try:
        text = file.read_text(encoding="utf-8").strip("\n")
    except OSError as error:
        raise PublishError(f"published prompt {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PublishError(f"published prompt {file}: not UTF-8 text") from None
    if not text.strip():
        raise PublishError(f"published prompt {file}: it is empty")
    return text


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """The longest prefix that all token rows have in common."""
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))]


def render(encoder: PromptEncoder, text: str) -> list[int]:
    """The tokens that every chat with ``text`` as its system message begins with.

    Of a model without a chat template: the tokens that every plain prompt beginning with ``text`` begins with.
    Raises PublishError if the template refuses a system message, or if nothing is common.
    """
    try:
        rows = [_tokens(encoder, text, content) for content in _continuations(encoder)]
    except ApiError as error:
        raise PublishError(error.message) from error
    if len({tuple(row) for row in rows}) < 2:
        raise PublishError("the tokenizer makes the same tokens of every user message: the prompt's end is unknown")
    tokens = common_prefix(rows)
    if not tokens:
        raise PublishError("chats with this system message have not a single first token in common")
    return tokens


def _continuations(encoder: PromptEncoder) -> list[str]:
    """User messages that differ at once, some of them out of the tokenizer's own vocabulary."""
    size = encoder.backend.get_vocab_size()
    words = (str(encoder.backend.decode([size * part // 8])) for part in range(8))
    return [*_BEGINNINGS, *(word for word in words if word)]


def _tokens(encoder: PromptEncoder, system: str, user: str) -> list[int]:
    try:
        return encoder.encode_chat([{"role": "system", "content": system}, {"role": "user", "content": user}])
    except ApiError as error:
        if error.code != "no_chat_template":
            raise
        return encoder.encode(system + user)
