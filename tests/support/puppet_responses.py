"""Responses of the puppet (``puppet``): what is asked, and what must be told."""

from __future__ import annotations

import json
from typing import Any

import openai
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.support.puppet_chats import PARAMETERS

TOOL: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}
LONG_BODY = {"metadata": {f"filler{number}": "x" * 512 for number in range(16)}, "user": "x" * 12_000}
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def request_of(script: str, **more: Any) -> dict[str, Any]:
    """A request that is answered with a script."""
    return {"model": "tiny", "input": f"play {script}", "tools": [TOOL]} | more


def said(response: Response) -> tuple[str, str, list[str]]:
    """What a response says: text, reasoning, cities of its calls. It is as the client's types have it."""
    Response.model_validate(response.model_dump(mode="json", exclude_unset=True))
    reasoning = [part.text for item in response.output if item.type == "reasoning" for part in item.content or []]
    calls = [item for item in response.output if item.type == "function_call"]
    assert {(call.name, call.status) for call in calls} <= {("get_weather", "completed")}
    assert len({call.call_id for call in calls} | {call.id for call in calls}) == 2 * len(calls)
    return response.output_text, "".join(reasoning), [json.loads(call.arguments)["city"] for call in calls]


def events_of(client: openai.OpenAI, asked: dict[str, Any]) -> list[Any]:
    """The events of a stream, numbered without a gap and each as the client's types have it."""
    events = list(client.responses.create(**asked, stream=True))
    for event in events:
        _EVENT.validate_python(event.model_dump(mode="json", exclude_unset=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events
