"""Rendering of published prompts: from a system message to the tokens that every chat with it begins with.

A system message alone does not say which tokens a request will begin with: the chat template decides what stands around
it, a tokenizer may merge its last characters with what follows, and a client that read the text from a file may have
kept the file's last newline. So the message is rendered in many chats that differ right behind it, and the longest
common token prefix is taken: nothing is guessed, and no request with the message begins otherwise.

Chats differ in what the first user says and in which role speaks next. Some templates write the system message
elsewhere in some of them (into the last user's turn, say), or write tools behind a newline that only some keep; a chat
that does not begin with the whole message and its tools cannot share it and must not shorten what the others share.
Such a chat is left out and a note says so.

A special token that the message or a tool spells is text here, whatever the gateway is set to: what is published says
what was written and opens no turn of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.templates.chat_template import PromptEncoder

from .prompt_files import PublishError

Chat = list[dict[str, Any]]
Tools = list[dict[str, Any]]
_Row = TypeVar("_Row", str, list[int])

# Letters, digits, marks, space, another script: tokenizers merge each of them differently with what stands before.
_BEGINNINGS = ("a", "The quick", "Zx", "7", "42 ", "\n", "  b", "{", "'", "-", "é", "中", "🙂")
_USER = {"role": "user", "content": "q"}
_TURNS: dict[str, Chat] = {
    "of several turns": [_USER, {"role": "assistant", "content": "r"}, {"role": "user", "content": "s"}],
    "that an assistant's message opens": [{"role": "assistant", "content": "r"}, _USER],
    "with a second system message": [{"role": "system", "content": "t"}, _USER],
    "without a user's message": [],
}


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt ready to be published.

    Attributes:
        tokens: what every chat with it begins with.
        notes: what its publisher should know, a sentence each.
    """

    tokens: list[int]
    notes: tuple[str, ...] = ()


def common_prefix(rows: Sequence[_Row]) -> _Row:
    """The longest prefix that all rows, texts or lists of tokens, have in common."""
    low, high = min(rows), max(rows)  # what these two agree on, all between them do
    pairs = enumerate(zip(low, high, strict=False))
    return low[: next((place for place, (one, other) in pairs if one != other), len(low))]


def render_prompt(encoder: PromptEncoder, system: str, tools: Tools | None, longest: int) -> RenderedPrompt:
    """The tokens that every chat with this system message, and with these tools, begins with.

    Of a model without a chat template: the tokens that every plain prompt beginning with the text begins with.
    Raises PublishError if the template refuses a system message, if nothing is common, or if the model, which takes
    at most ``longest`` tokens, has no room for it and an answer.
    """
    rendered = _rendered(encoder, system, tools)
    if len(rendered.tokens) >= longest:
        raise PublishError(f"{len(rendered.tokens)} tokens do not fit a model of {longest}")
    return rendered


def _rendered(encoder: PromptEncoder, system: str, tools: Tools | None) -> RenderedPrompt:
    try:
        texts, notes = _chats(encoder, system, tools)
        tokens = _common_tokens([encoder.encode_sealed(text) for text in texts])
    except ApiError as error:
        if error.code != "no_chat_template":
            raise PublishError(error.message) from error
        return _plain(encoder, system, tools)
    return RenderedPrompt(tokens, notes)


def _plain(encoder: PromptEncoder, text: str, tools: Tools | None) -> RenderedPrompt:
    if tools:
        raise PublishError("this model has no chat template: there is no place for tools")
    try:
        rows = [encoder.encode(text.rstrip("\n") + user) for user in _users(encoder)]
    except ApiError as error:
        raise PublishError(error.message) from error
    return RenderedPrompt(_common_tokens(rows))


def _common_tokens(rows: list[list[int]]) -> list[int]:
    if len({tuple(row) for row in rows}) < 2:
        raise PublishError("the tokenizer makes the same tokens of every user message: the prompt's end is unknown")
    tokens = common_prefix(rows)
    if not tokens:
        raise PublishError("chats with this system message have not a single first token in common")
    return tokens


def _chats(encoder: PromptEncoder, system: str, tools: Tools | None) -> tuple[list[str], tuple[str, ...]]:
    """Texts of chats that begin with the system message, and notes on those that do not. Raises ApiError."""
    first = [{"role": "system", "content": system.rstrip("\n")}]
    texts = [encoder.render_sealed([*first, {"role": "user", "content": user}], tools) for user in _users(encoder)]
    shared, notes = common_prefix(texts), []
    whole = shared[: _end(shared, system, tools)]
    for what, chat in _others(first, system):
        try:
            text = encoder.render_sealed(chat, tools)
        except ApiError:
            continue  # no request can be such a chat
        if text.startswith(whole):
            texts.append(text)
        else:
            notes.append(f"chats {what} begin otherwise in this model's template: they share nothing")
    if encoder.writes_the_date:
        notes.append("this model's template writes the date into the prompt: publish again when it changes")
    return texts, tuple(notes)


def _others(first: Chat, system: str) -> Iterator[tuple[str, Chat]]:
    """Chats that go on in other ways, and what to call them."""
    for what, turns in _TURNS.items():
        yield what, [*first, *turns]
    if system.endswith("\n"):
        yield "that keep the newline at the end of the file", [{"role": "system", "content": system}, _USER]


def _end(shared: str, system: str, tools: Tools | None) -> int:
    """Where the chats' common text has said the system message and the last tool's name; 0: it says neither."""
    said = [words for words in (system.strip(), *_names(tools or [])) if words]
    return max((shared.rfind(words) + len(words) for words in said if words in shared), default=0)


def _names(tools: Tools) -> list[str]:
    """Names of functions, as far as the tools have any."""
    functions = (tool.get("function") for tool in tools)
    names = (function.get("name") for function in functions if isinstance(function, dict))
    return [name for name in names if isinstance(name, str) and name]


def _users(encoder: PromptEncoder) -> list[str]:
    """User messages that differ at once, some of them out of the tokenizer's own vocabulary."""
    size = encoder.backend.get_vocab_size()
    words = (str(encoder.backend.decode([size * part // 8])) for part in range(8))
    return [*_BEGINNINGS, *(word for word in words if word)]
