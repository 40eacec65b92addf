"""Rendering of published prompts: from a preamble to the tokens that every chat with it begins with.

System messages and tools alone do not say which tokens a request will begin with: the chat template decides what stands
around them, a tokenizer may merge their last characters with what follows, and a client that read the text from a file
may have kept the file's last newline. So they are rendered in many chats that differ right behind them, and the longest
common token prefix is taken: nothing is guessed, and no request that begins so begins otherwise.

Chats differ in what the first user says, in which role speaks next and, if none are published, in their tools. Some
templates write the system message elsewhere in some of them (into the last user's turn, say), or write tools behind a
newline that only some keep, or in front of it; a chat that does not begin with the whole message and its tools cannot
share it and must not shorten what the others share. Such a chat is left out and a note says so. Where tools stand
behind the system message, or behind the conversation, what is published ends in front of them.

A special token that the message or a tool spells is text here, whatever the gateway is set to: what is published says
what was written and opens no turn of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.templates.chat_template import PromptEncoder

from .preamble import Chat, Preamble, Tools
from .prompt_files import PublishError

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
_PARAMETERS = {"type": "object", "properties": {}}
_OTHER_TOOLS: list[Tools] = [
    [{"type": "function", "function": {"name": name, "description": name, "parameters": _PARAMETERS}}]
    for name in ("add", "find")
]


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


def render_prompt(encoder: PromptEncoder, preamble: Preamble, longest: int) -> RenderedPrompt:
    """The tokens that every chat with this preamble begins with.

    Of a model without a chat template: the tokens that every plain prompt beginning with the text begins with.
    Raises PublishError if the template refuses a system message, if nothing is common, or if the model, which takes
    at most ``longest`` tokens, has no room for it and an answer.
    """
    rendered = _rendered(encoder, preamble)
    if len(rendered.tokens) >= longest:
        raise PublishError(f"{len(rendered.tokens)} tokens do not fit a model of {longest}")
    return rendered


def _rendered(encoder: PromptEncoder, preamble: Preamble) -> RenderedPrompt:
    try:
        texts, notes = _chats(encoder, preamble)
        tokens = _common_tokens([encoder.encode_sealed(text) for text in texts])
    except ApiError as error:
        if error.code != "no_chat_template" or not preamble.of_file:
            raise PublishError(error.message) from error
        return _plain(encoder, preamble.messages[0]["content"], preamble.tools)
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


def _chats(encoder: PromptEncoder, preamble: Preamble) -> tuple[list[str], tuple[str, ...]]:
    """Texts of chats that begin so, and notes on those that do not. Raises ApiError."""
    tools, options = preamble.tools, preamble.options
    first = [{**one, "content": one["content"].rstrip("\n")} for one in preamble.messages]
    if not preamble.of_file:
        first = preamble.messages
    users = ({"role": "user", "content": user} for user in _users(encoder))
    texts = [encoder.render_sealed([*first, user], tools, options) for user in users]
    shared, notes = common_prefix(texts), []
    whole = shared[: _end(shared, preamble)]
    for what, chat, known in _others(preamble, first, encoder.shows_tools):
        try:
            text = encoder.render_sealed(chat, known, options)
        except ApiError:
            continue  # no request can be such a chat
        if text.startswith(whole):
            texts.append(text)
        else:
            notes.append(f"chats {what} begin otherwise in this model's template: they share nothing")
    if any(name not in whole for name in _names(tools or [])):
        notes.append("this model's template writes tools behind the conversation: what is published ends before them")
    if encoder.writes_the_date:
        notes.append("this model's template writes the date into the prompt: publish again when it changes")
    return texts, tuple(dict.fromkeys(notes))


def _others(preamble: Preamble, first: Chat, shows_tools: bool) -> Iterator[tuple[str, Chat, Tools | None]]:
    """Chats that go on in other ways, and what to call them."""
    for what, turns in _TURNS.items():
        yield what, [*first, *turns], preamble.tools
    for tools in _OTHER_TOOLS if preamble.tools is None and shows_tools else ():
        yield "with tools", [*first, _USER], tools
    if preamble.of_file and preamble.messages[0]["content"].endswith("\n"):
        yield "that keep the newline at the end of the file", [*preamble.messages, _USER], preamble.tools


def _end(shared: str, preamble: Preamble) -> int:
    """Where the chats' common text has said the system messages and the last tool's name; 0: it says neither."""
    contents = [one["content"].strip() for one in preamble.messages]
    said = [words for words in (*contents, *_names(preamble.tools or [])) if words]
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
