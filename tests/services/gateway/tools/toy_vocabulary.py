"""A vocabulary of single bytes, a few words and special tokens, and a model that writes at random what a grammar lets
it write."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import llguidance

WORDS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "</parameter>", "</arg_value>", "<|python_start|>", "\n")
EOS = 256
LIKELY = {'"': 30.0, "}": 8.0, "]": 8.0, ")": 8.0, "\\": 0.3}


class ToyVocabulary:
    """Tokens 0 to 255 are the bytes, 256 ends, then come special tokens, then words."""

    def __init__(self, specials: Iterable[str]) -> None:
        self.specials = {text: EOS + 1 + place for place, text in enumerate(specials)}
        words = [word.encode() for word in WORDS if word not in self.specials]
        self.tokens = [*(bytes([i]) for i in range(256)), b"<eos>", *(s.encode() for s in self.specials), *words]
        self.eos_token_id, self.bos_token_id = EOS, None
        self.special_token_ids = list(range(EOS, EOS + 1 + len(self.specials)))
        self.is_tokenizer_wrapper = True
        self.backend = llguidance.LLTokenizer(self)  # type: ignore[arg-type]
        self._weights = [
            LIKELY.get(t.decode(), 1.0) if t.isascii() and t.decode().isprintable() else 0.02 for t in self.tokens
        ]
        self._weights[EOS:] = [10.0] * (len(self.tokens) - EOS)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())

    def encoded(self, text: str) -> list[int]:
        """The tokens of a text, bytes and special tokens."""
        out: list[int] = []
        while text:
            special = next((one for one in self.specials if text.startswith(one)), None)
            out += [self.specials[special]] if special else list(text[0].encode())
            text = text[len(special or "x") :]
        return out

    def matcher(self, grammar: str) -> Any:
        """A matcher of a grammar, which must be valid."""
        made = llguidance.LLMatcher(self.backend, grammar)
        assert not made.is_error(), f"{made.get_error()}\n{grammar}"
        return made

    def accepts(self, grammar: str, text: str) -> bool:
        """Whether a text is one of the grammar."""
        matcher, tokens = self.matcher(grammar), self.encoded(text)
        return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())

    def written(self, grammar: str, seed: int, most: int = 700) -> list[int] | None:
        """What a random model writes; None if it comes to no end."""
        chance, matcher, out = random.Random(seed), self.matcher(grammar), []
        while len(out) < most:
            mask = matcher.compute_bitmask()
            allowed = [i for i in range(len(self.tokens)) if mask[i // 8] >> (i % 8) & 1]
            assert allowed, f"a dead end behind {b''.join(self.tokens[i] for i in out)!r}"
            token = chance.choices(allowed, [self._weights[i] for i in allowed])[0]
            if token == EOS:
                return out
            assert matcher.consume_token(token)
            out.append(token)
            if matcher.is_stopped():
                return out
        return None
