"""Rendering of published prompts: from a text file to the tokens that every request with that prompt begins with.

A system prompt alone does not say which tokens a request will begin with: the chat template decides what stands
around it, and a tokenizer may merge its last characters with what follows. So the prompt is rendered with several
user messages that differ from their first character on, and the longest common token prefix is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

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


def render(tokenizer: Any, text: str) -> list[int]:
    """The tokens that every chat with ``text`` as its system message begins with.

    Without a chat template it is the tokens that every plain prompt beginning with ``text`` begins with.
    Raises PublishError if the template refuses a system message or nothing is common.
    """
    rows = []
    for content in _continuations(tokenizer):
        try:
            rows.append(_tokens(tokenizer, text, content))
        except Exception as error:  # a template is a program: it may raise anything
            raise PublishError(f"the chat template refuses a system message: {error}") from error
    if len({tuple(row) for row in rows}) < 2:
        raise PublishError("the tokenizer makes the same tokens of every user message: no end of the prompt is known")
    tokens = common_prefix(rows)
    if not tokens:
        raise PublishError("chats with this system message have not a single first token in common")
    return tokens


def _continuations(tokenizer: Any) -> list[str]:
    """User messages that differ at once, some made of the tokenizer's own vocabulary."""
    size = len(tokenizer)
    special = set(tokenizer.all_special_ids)
    ids = [size * part // 8 for part in range(8)]
    return [*_BEGINNINGS, *(tokenizer.decode([i]) for i in ids if i not in special)]


def _tokens(tokenizer: Any, system: str, user: str) -> list[int]:
    if not tokenizer.chat_template:
        return list(tokenizer(system + user)["input_ids"])
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
