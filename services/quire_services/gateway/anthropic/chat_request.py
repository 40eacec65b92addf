"""Chat request: the body of a message request as that of a chat, which is what all else reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quire_services.gateway.http.errors import invalid
from quire_services.gateway.http.own_words import MessagePlace
from quire_services.gateway.openai.json_body import validated
from quire_services.gateway.templates.chat_template import PromptEncoder
from quire_services.gateway.templates.model_templates import THINKING_VARIABLE

from .bodies import MessageChat, MessagesBody, OutputConfig, PromptBody, Thinking, ThinkingShown
from .client_tools import chat_tool_choice, chat_tools
from .content_blocks import chat_messages
from .parameters import refuse_unserved


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The chat that asks for the same, and where its messages come from."""

    chat: MessageChat
    places: list[MessagePlace]


def chat_request(body: PromptBody, encoder: PromptEncoder) -> ChatRequest:
    """The chat of a request. Raises ApiError 400."""
    refuse_unserved(body.model_extra)
    placed = chat_messages(body.system, body.messages)
    messages = [message for message, _ in placed]
    fields: dict[str, Any] = {"model": body.model, "messages": messages}
    if messages[-1]["role"] == "assistant":
        fields |= _begun(messages[-1])
    if body.tools:
        fields["tools"] = chat_tools(body.tools)
    if body.tool_choice:
        fields |= chat_tool_choice(body.tool_choice)
    if body.thinking:
        fields |= _thinking(body.thinking, encoder)
    if body.output_config:
        fields |= _output(body.output_config)
    if isinstance(body, MessagesBody):
        same = {name: getattr(body, name) for name in ("max_tokens", "temperature", "top_p", "top_k", "stream")}
        fields |= {name: value for name, value in same.items() if value is not None}
        fields["stop"] = body.stop_sequences
    return ChatRequest(validated(MessageChat, fields), [place for _, place in placed])


def _begun(last: dict[str, Any]) -> dict[str, Any]:
    """The answer goes on with what the assistant has begun to say. Raises ApiError 400 if it has called tools."""
    if last.get("tool_calls"):
        raise invalid("messages: behind a 'tool_use' there must be its 'tool_result', from the user", "messages")
    return {"continue_final_message": True, "add_generation_prompt": False}


def _thinking(thinking: Thinking, encoder: PromptEncoder) -> dict[str, Any]:
    """Whether the model reasons is its template's to know; where that reads no such variable, the model does as it is
    made to, unless a grammar keeps it from it, and its client sees of it what it has asked for."""
    shown: ThinkingShown = "omitted" if thinking.display == "omitted" else "whole"
    out: dict[str, Any] = {"thinking_shown": "none" if thinking.type == "disabled" else shown}
    if thinking.type == "disabled" or (thinking.type == "enabled" and encoder.reads(THINKING_VARIABLE)):
        out["chat_template_kwargs"] = {THINKING_VARIABLE: thinking.type == "enabled"}
    return out


def _output(config: OutputConfig) -> dict[str, Any]:
    out: dict[str, Any] = {"reasoning_effort": config.effort} if config.effort else {}
    if config.format:
        schema = {"name": "answer", "schema": config.format.schema_, "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    return out
