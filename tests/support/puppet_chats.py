"""Chats with the puppet (``puppet``): what is asked, and what must be told."""

from __future__ import annotations

import json
from typing import Any

import openai

from tests.support.puppet import SCRIPTS

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
LONG: dict[str, Any] = {"metadata": {"filler": "x" * 20_000}}  # read by a process of its own
REASONING = {"thinks": "The user asks for weather.", "muses": "That one is easy."}
CONTENT = SCRIPTS | {"says": "Let me look that up.", "muses": "It is Madrid, of course."}
CITIES = {"call": ["Berlin"], "two": ["Oslo", "Rome"], "says": ["Lima"], "thinks": ["Kyiv"]}


def ask(script: str, tools: list[Any] | None = TOOLS, **more: Any) -> dict[str, Any]:
    """A request that is answered with a script."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": f"play {script}"}]} | more
    return asked | ({"tools": tools} if tools else {})


def told(choice: Any) -> tuple[Any, ...]:
    """What a choice says: content, reasoning, cities of its calls, and why it has ended."""
    message = choice.message
    calls = message.tool_calls or []
    assert all(one.type == "function" and one.function.name == "get_weather" for one in calls)
    assert len({one.id for one in calls}) == len(calls)
    cities = [json.loads(one.function.arguments)["city"] for one in calls]
    return message.content or "", getattr(message, "reasoning_content", None) or "", cities, choice.finish_reason


def expected(script: str) -> tuple[Any, ...]:
    cities = CITIES.get(script, [])
    content = "" if cities and script != "says" else CONTENT[script]
    return content, REASONING.get(script, ""), cities, "tool_calls" if cities else "stop"


def streamed(client: openai.OpenAI, asked: dict[str, Any]) -> list[Any]:
    """The choices of a streamed answer, as the official client puts them together."""
    with client.chat.completions.stream(**asked) as events:
        for _ in events:
            pass
        return list(events.get_final_completion().choices)
