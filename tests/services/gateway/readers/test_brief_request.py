"""What is left of a long body once it has been read: enough to answer it, and little."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.chat_tools import callable_tools
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.parameters import CHAT
from quire_services.gateway.readers.brief_request import body_without_prompt, without_prompt
from quire_services.gateway.readers.request_reader import ReadRequest

LIMITS = Limits(4096, 4096, 512)


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": "d" * 500, "parameters": parameters}}


def kept(*tools: dict[str, Any], **more: Any) -> ChatBody:
    """A request with tools, as the gateway gets it from a reader."""
    body = ChatBody(model="m", messages=[{"role": "user", "content": "x" * 20_000}], tools=list(tools), **more)
    rest = without_prompt(ReadRequest(body, [[1]], LIMITS))
    assert len(rest) < len(tools) * 300 + 300
    found = body_without_prompt(CHAT, orjson.loads(rest))
    assert isinstance(found, ChatBody)
    return found


def test_names_and_types_of_tools_are_kept() -> None:
    """Descriptions are most of a tool, and no answer is read with them."""
    city = {"type": "string", "description": "d" * 500}
    found = kept(tool("look_up", city=city), tool("stop"), parallel_tool_calls=False)
    assert found.parallel_tool_calls is False
    assert callable_tools(found) == [
        {
            "type": "function",
            "function": {"name": "look_up", "parameters": {"properties": {"city": {"anyOf": [{"type": "string"}]}}}},
        },
        {"type": "function", "function": {"name": "stop", "parameters": {"properties": {}}}},
    ]


def test_tools_that_are_not_to_be_called_are_not_kept() -> None:
    """Nor looked for afterwards."""
    assert callable_tools(kept(tool("stop"), tool_choice="none")) is None


def test_what_json_can_hardly_say_ends_no_reader() -> None:
    """A number beyond 64 bits, half of a surrogate pair."""
    (found,) = callable_tools(kept(tool("f", a={"const": 10**30}, b={"enum": ["\ud800"]}))) or []
    properties = found["function"]["parameters"]["properties"]
    assert properties == {"a": {"anyOf": [{"const": 1e30}]}, "b": {"anyOf": [{"enum": ["?"]}]}}


def test_too_many_tools_are_refused() -> None:
    """The gateway's loop reads what is kept."""
    with pytest.raises(ApiError, match="names and parameters of the tools") as refused:
        kept(*(tool(f"look_up_{number}", a={"type": "string"}) for number in range(5_000)))
    assert (refused.value.status, refused.value.param) == (400, "tools")
