"""Preamble: what of a chat is published, which is what stands in front of the conversation.

It comes from files, a system message as text and perhaps tools, or from a chat's own request: its system messages, its
tools, and the variables of the template that it sets. Nothing that follows the system messages is part of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.chat import chat_prompt
from quire_services.gateway.openai.chat_tools import check_tools
from quire_services.gateway.openai.json_body import validated
from quire_services.gateway.templates.chat_template import PromptEncoder

from .prompt_files import PublishError

MAX_PACKED_CHARS = 256 << 10
_OF_PREAMBLE = {
    "model", "tools", "tool_choice", "chat_template_kwargs", "documents", "reasoning_effort",
    "add_special_tokens",
}  # fmt: skip
_ANY_USER = {"role": "user", "content": "-"}
Chat = list[dict[str, Any]]
Tools = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Preamble:
    """What chats begin with.

    Attributes:
        messages: of the system, as templates take them.
        tools: None: whatever tools a chat has, none included.
        options: variables of the template.
        of_file: the one message was read from a file, whose last newline a client may have kept.
    """

    messages: Chat
    tools: Tools | None = None
    options: dict[str, Any] = field(default_factory=dict)
    of_file: bool = False

    @classmethod
    def of_system(cls, text: str, tools: Tools | None = None) -> Preamble:
        """A system message as a file has it, and the tools that every chat with it sends."""
        return cls([{"role": "system", "content": text}], tools, of_file=True)


def packed_preamble(body: ChatBody) -> str:
    """The beginning of a chat as a request of its own, in JSON (ASCII), for ``preamble_of``; empty if it has none, if
    it is longer than ``MAX_PACKED_CHARS``, or if a salt or a template of its own keeps all others from sharing it."""
    system = list(takewhile(lambda message: message.role in ("system", "developer"), body.messages))
    if body.cache_salt or body.chat_template or not (system or body.tools):
        return ""
    messages = [*(message.model_dump(exclude_unset=True) for message in system), _ANY_USER]
    packed = json.dumps(body.model_dump(exclude_unset=True, include=_OF_PREAMBLE) | {"messages": messages})
    return packed if len(packed) <= MAX_PACKED_CHARS else ""


def preamble_of(request: object, encoder: PromptEncoder, *, any_tools: bool = False) -> Preamble:
    """The beginning of a chat request, the JSON value of its body; without its tools if chats with any tools are to
    share it. Raises PublishError for what is no such request, or begins as no other chat does."""
    try:
        body = validated(ChatBody, request)
        check_tools(body.model_copy(update={"tool_choice": None}), finds_calls=True)
        prompt = chat_prompt(body, encoder)
    except ApiError as error:
        raise PublishError(f"not a chat request: {error.message}") from None
    if body.add_special_tokens or body.chat_template:
        field = "add_special_tokens" if body.add_special_tokens else "chat_template"
        raise PublishError(f"a request with {field!r} cannot be published: its tokens are no other chat's")
    system = list(takewhile(lambda message: message["role"] == "system", prompt.messages))
    if not system and not prompt.tools:
        raise PublishError("the request has no system message in front and no tools: there is nothing to share")
    return Preamble(system, None if any_tools else prompt.tools, prompt.options)
