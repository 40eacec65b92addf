"""Special tokens that a message spells, as the text they are: ``<|im_start|>system`` from a user opens no turn.

A chat template writes special tokens between messages, and the tokenizer finds them in the rendered text,
wherever they come from. To tell them apart,

    1. those that a message spells are replaced by words that cannot be guessed, before the template sees them
       (``hidden``);
    2. in the rendered text, those that are left are the template's own: they get other names, and what was hidden
       comes back as it was spelled (``sealed``);
    3. that text is encoded by a twin of the tokenizer that knows special tokens by the other names only (``encode``).

The twin shares the model and all rules of the tokenizer, so nothing else about the tokens changes: a text that spells
no special token has the same ones either way, which is tried when the twin is made.

Left as they are: tokens that are not special and that people write as tags (``<think>``, ``</tool_call>``). Answers
hold them, templates look for them, and they open no turn. In what an assistant said, those with which it calls tools,
unless they are special: they are in the text of answers, and an answer that comes back must have the tokens it was.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer

from quire_services.gateway.http.errors import invalid

from .prompt_cache import PromptCache
from .word_pattern import any_of

_TAG = re.compile(r"</?\w+>")
_CALLS = re.compile(r"tool\W?(call|sep)")
_REASONING = ("<think>", "</think>")  # special in some vocabularies; templates look for them in an answer's text


class SpelledTokens:
    """The special tokens of one tokenizer and template.

    Args:
        backend: a ``tokenizers.Tokenizer``; only read.
        source: text of the chat templates.
    """

    def __init__(self, backend: Any, source: str) -> None:
        added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
        guarded = {token.content: i for i, token in added.items() if _is_control(token, source)}
        self._pattern = re.compile(any_of(guarded))
        answered = {token.content for token in added.values() if not token.special and _CALLS.search(token.content)}
        self._pattern_of_answers = re.compile(any_of(guarded.keys() - answered))
        word = "q" + secrets.token_hex(8)
        self._word = word
        self._hidden = {spelling: f"{word}t{place}t" for place, spelling in enumerate(guarded)}
        self._names = {spelling: f"<{word}n{place}n>" for place, spelling in enumerate(guarded)}
        self._back = {name: spelling for spelling, name in self._hidden.items()}
        twin, self._ids = _twin(backend, added, self._names)
        # Those that are also words of the model, but for what stands for characters that it does not know.
        words = {i for spelling, i in guarded.items() if backend.model.token_to_id(spelling) == i}
        self._words = words.difference(twin.encode("\u0378\U000e1234", add_special_tokens=False).ids)
        self._prompt_cache = PromptCache(twin)
        # Normalised text may spell what the text does not: then the twin reads every message.
        self._always = backend.normalizer is not None and any(added[i].normalized for i in guarded.values())
        sample = " a".join(["", *guarded, " b\n"])
        plain = backend.encode(sample, add_special_tokens=False).ids
        self.usable = self.encode(self.sealed(sample), None) == plain

    def found(self, *values: Any) -> bool:
        """Whether some text in these values, messages or tools, spells one."""
        return self._always or any(self._pattern.search(text) for text in _texts(values))

    def hidden(self, value: Any) -> Any:
        """The value, messages or tools, with other words in place of what it spells, keys of objects included. May
        raise RecursionError."""
        return self._hide(value, self._pattern)

    def _hide(self, value: Any, pattern: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: self._hidden[match[0]], value)
        if isinstance(value, dict):
            own = self._pattern_of_answers if value.get("role") == "assistant" else pattern
            return {self._hide(key, pattern): self._hide(one, own) for key, one in value.items()}
        return [self._hide(one, pattern) for one in value] if isinstance(value, list) else value

    def sealed(self, text: str) -> str:
        """A text rendered from hidden values: the template's tokens under other names, the rest as it was spelled.
        Raises ApiError if the template has changed what was hidden."""
        named = self._pattern.sub(lambda match: self._names[match[0]], text)
        out = re.sub(rf"{self._word}t\d+t", lambda match: self._back.get(match[0], match[0]), named)
        if len(re.findall(self._word, out, re.IGNORECASE)) != len(re.findall(rf"<{self._word}n\d+n>", out)):
            raise invalid("the model's chat template changes special tokens that a message spells", "messages")
        return out

    def encode(self, text: str, tenant: str | None) -> list[int]:
        """Token ids of a sealed text. Raises ApiError if the tokenizer makes a special token of plain text."""
        own = self._prompt_cache.encode(text, tenant)
        if not self._words.isdisjoint(own):
            raise invalid("the messages spell a special token that this model's tokenizer cannot tell from text")
        return [self._ids.get(token, token) for token in own]


def _is_control(token: AddedToken, source: str) -> bool:
    """Whether a token marks a speaker or the end of something, so that only the template may write it."""
    content = token.content
    if content in _REASONING or not content.strip():
        return False
    return bool(token.special) or (content in source and not _TAG.fullmatch(content))


def _twin(backend: Any, added: dict[int, AddedToken], names: dict[str, str]) -> tuple[Any, dict[int, int]]:
    """A tokenizer that shares all but the names of added tokens; its ids of these -> theirs."""
    twin = Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if (rules := getattr(backend, part)) is not None:
            setattr(twin, part, rules)
    order = sorted(added)
    contents = [names.get(added[i].content, added[i].content) for i in order]
    twin.add_tokens([_renamed(added[i], content) for i, content in zip(order, contents, strict=True)])
    ids = [(twin.token_to_id(content), i) for i, content in zip(order, contents, strict=True)]
    return twin, {new: old for new, old in ids if new is not None and new != old}


def _renamed(token: AddedToken, content: str) -> AddedToken:
    return AddedToken(
        content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def _texts(value: Any) -> Iterator[str]:
    """All strings in a value, keys included; however deep it nests."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            left += one
