"""Brief request: what a reader process tells the gateway of a request that it has read: what is needed to answer it.

The prompt is tokens by then, and of the tools what an answer is read with is left. What is wrong with a request goes
the same way, field by field.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from quire_services.gateway.anthropic.bodies import MessageChat
from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.openai.bodies import Body, ChatBody, CompletionBody
from quire_services.gateway.openai.chat_tools import callable_tools
from quire_services.gateway.openai.constraints.content_fields import CONTENT_FIELDS
from quire_services.gateway.openai.parameters import CHAT, PLAIN, RESPONSES
from quire_services.gateway.tools.parser.parameter_types import brief_tools

from .request_reader import COUNT, MESSAGES, ReadRequest

MAX_REST_BYTES = 1 << 16  # of a request without its prompt and its tools
MAX_TOOLS_BYTES = 1 << 18  # of what is kept of tools: the gateway's loop reads it
# What the prompt is made of, or is not used later, and what stands in for it once the tokens are there.
_BULK = {"messages", "prompt", "tools", "documents", "chat_template", "chat_template_kwargs", "user", *CONTENT_FIELDS}
_CHAT_STAND_IN: dict[str, Any] = {"messages": [{"role": "user", "content": "-"}]}
_WITHOUT_PROMPT: dict[str, tuple[type[Body], dict[str, Any]]] = {
    CHAT: (ChatBody, _CHAT_STAND_IN),
    PLAIN: (CompletionBody, {"prompt": "-"}),
    MESSAGES: (MessageChat, _CHAT_STAND_IN),
    COUNT: (MessageChat, _CHAT_STAND_IN),
    RESPONSES: (ChatBody, _CHAT_STAND_IN),
}


def without_prompt(read: ReadRequest) -> bytes:
    """The request without its prompt, as JSON, for ``body_without_prompt``; of the tools, what an answer is read with.
    Raises ApiError for one that is large all the same."""
    bulk = _BULK | set(read.body.model_extra or {})
    rest = read.body.model_dump(mode="json", exclude_unset=True, exclude=bulk)
    if len(orjson.dumps(rest)) > MAX_REST_BYTES:
        raise invalid("the parameters beside the prompt are too long")
    tools = callable_tools(read.body) if isinstance(read.body, ChatBody) else None
    if not tools:
        return orjson.dumps(rest)
    brief = json.dumps(brief_tools(tools), ensure_ascii=False).encode(errors="replace")
    if len(brief) > MAX_TOOLS_BYTES:
        raise invalid("the names and parameters of the tools are too long", "tools")
    return orjson.dumps(rest | {"tools": orjson.Fragment(brief)})


def body_without_prompt(api: str, rest: dict[str, Any]) -> Body:
    """The body of a packed request; a stand-in is its prompt."""
    model, stand_in = _WITHOUT_PROMPT[api]
    return model.model_validate(rest | stand_in)


def error_fields(error: ApiError) -> dict[str, Any]:
    """The fields of an error, for ``error_of``."""
    return {name: getattr(error, name) for name in ("status", "message", "type", "param", "code")}


def error_of(fields: dict[str, Any]) -> ApiError:
    """The error of such fields."""
    return ApiError(**fields)
