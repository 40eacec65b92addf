"""Request bodies of Anthropic's API.

As in ``openai.bodies``: types are strict, null means the default, fields that are known and not served are refused by
name (``parameters``). Blocks of content and tools are plain objects here: what is in them is looked at where they are
translated.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from quire_services.gateway.openai.bodies import MAX_STOP_CHARS, MAX_STOPS, ChatBody
from quire_services.gateway.openai.body_values import Real, ShallowBody, TokensOrNone, Whole

Blocks = str | list[dict[str, Any]]
ThinkingShown = Literal["whole", "omitted", "none"]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class Turn(_Part):
    """A message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Blocks


class Metadata(_Part):
    """Who asks; accepted without effect."""

    user_id: str | None = None


class Thinking(_Part):
    """Whether the model reasons before it answers, and what is shown of it."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[Whole, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(_Part):
    """The form that the answer's text must have."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(_Part):
    """How much effort goes into an answer, and what its text must be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class ToolPreference(_Part):
    """Whether tools are called: the model decides, any, the one named, none."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class PromptBody(ShallowBody, _Part):
    """What makes a prompt: all of ``POST /v1/messages/count_tokens``."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: Blocks | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolPreference | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesBody(PromptBody):
    """``POST /v1/messages``."""

    max_tokens: Annotated[Whole, Field(ge=0)]
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]], Field(max_length=MAX_STOPS)]
        | None
    ) = None
    temperature: Annotated[Real, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[Real, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[Whole, Field(ge=-1)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None


class MessageChat(ChatBody):
    """A message request as a chat.

    Attributes:
        max_tokens: -1 where the context ends before as many as were asked for; 0: the prompt alone is computed.
        thinking_shown: what the answer has of the model's reasoning: all, blocks without text, or no block.
    """

    max_tokens: TokensOrNone | None = None
    thinking_shown: ThinkingShown = "whole"
