"""Responses that are held to something: text to a schema, calls to a choice. The same grammars as for chats."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.puppet_chats import TOOLS, ask
from tests.support.puppet_responses import LONG_BODY, TOOL, request_of, said
from tests.support.puppet_stage import Stage


class Place(BaseModel):
    """What the puppet says in JSON."""

    city: str
    degrees: int


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
FLAT = {"type": "json_schema", "name": "Place", "schema": SCHEMA, "strict": True}
CHAT = {"type": "json_schema", "json_schema": {"name": "Place", "schema": SCHEMA, "strict": True}}
NAMED = {"type": "function", "name": "get_weather"}


@pytest.mark.parametrize("body", [{}, LONG_BODY], ids=["short", "long"])
@pytest.mark.parametrize(
    ("flat", "chat"),
    [
        ({"text": {"format": FLAT}}, {"response_format": CHAT}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"tool_choice": NAMED}, {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [NAMED]}},
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                    },
                }
            },
        ),
        ({"structured_outputs": {"regex": "[a-z]+"}}, {"structured_outputs": {"regex": "[a-z]+"}}),
    ],
    ids=["json_schema", "json_object", "required", "named", "allowed", "regex"],
)
def test_a_response_is_held_to_what_the_same_chat_is(
    stage: Stage, client: openai.OpenAI, flat: dict[str, Any], chat: dict[str, Any], body: dict[str, Any]
) -> None:
    """To the letter of the grammar, whoever has read the request."""
    text = "text" in flat or "structured_outputs" in flat
    tools: dict[str, Any] = {"tools": None} if text else {"tools": [TOOL | {"strict": None}]}
    extra = {"structured_outputs": flat["structured_outputs"]} if "structured_outputs" in flat else {}
    named = {name: value for name, value in flat.items() if name not in extra}
    client.responses.create(**request_of("call", **body) | tools | named, extra_body=extra)
    client.chat.completions.create(**ask("call", None if text else TOOLS), extra_body=chat)
    of_response, of_chat = (request.sampling.grammar for request in stage[1].requests)
    assert of_response == of_chat
    assert of_response


def test_text_is_parsed_as_it_was_asked_for(client: openai.OpenAI) -> None:
    """``responses.parse`` and a stream with ``text_format``."""
    asked: dict[str, Any] = {"model": "tiny", "input": "play json", "text_format": Place}
    parsed = client.responses.parse(**asked)
    assert parsed.output_parsed == Place(city="Berlin", degrees=21)
    assert parsed.text.format.type == "json_schema"
    with client.responses.stream(**asked) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == Place(city="Berlin", degrees=21)


def test_a_named_function_is_called_once(client: openai.OpenAI) -> None:
    """Whatever else the model would say."""
    found = client.responses.create(**request_of("two", tool_choice=NAMED))
    assert said(found)[2] == ["Oslo"]
    assert found.tool_choice.name == "get_weather"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": "{"}}}, "text.format.schema"),
        ({"tool_choice": {"type": "function", "name": "nobody"}}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
    ],
)
def test_what_cannot_be_held_to_is_refused(client: openai.OpenAI, changes: dict[str, Any], param: str) -> None:
    """In the words of this API."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**request_of("text") | changes)
    assert refused.value.param == param
    assert "response_format" not in refused.value.message
