"""Vocabulary: the bytes of each token, and which tokens are no text, as the tokenizer's files say.

Special are the tokens that the tokenizer calls special, and no others: an added token in angle brackets is often plain
text to the model's makers (``<tool_call>``), and what reads or constrains answers must take it for that.

The tokenizer is loaded as the gateway loads it, so that both ends speak of the same tokens. Tokens beyond those that
the model has logits for are left out, places without a token are empty.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .token_bytes import TokenBytes


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a model's tokens are.

    Attributes:
        spelled: bytes of every token, by id.
        special: tokens that no text contains.
        ends: tokens that end an answer.
    """

    spelled: list[bytes]
    special: list[int]
    ends: list[int]
    tokenizer: Any

    @classmethod
    def of(cls, tokenizer: Any, size: int, ends: Collection[int]) -> Vocabulary:
        """That of a ``tokenizers.Tokenizer``, for a model with ``size`` logits."""
        names = TokenBytes(tokenizer)
        special = [token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special]
        return cls(
            spelled=[names.of(token) for token in range(size)],
            special=[token for token in special if token < size],
            ends=sorted(token for token in ends if token < size),
            tokenizer=tokenizer,
        )

    def encode(self, text: str) -> list[int]:
        """A text as tokens, without those that a prompt begins or ends with."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def read_vocabulary(directory: Path, size: int, ends: Collection[int]) -> Vocabulary:
    """The vocabulary of a model directory; what transformers raises for its files is let through."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    tokenizer = loaded.backend_tokenizer
    end = tokenizer.token_to_id(str(loaded.eos_token)) if loaded.eos_token else None
    return Vocabulary.of(tokenizer, size, {*ends, *([] if end is None else [end])})
