"""Anthropic's API on a whole stack: the official client, a model that makes perfect calls, and the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import pydantic
import pytest

from tests.support.puppet import SCRIPTS, make_puppet
from tests.support.puppet_chats import PARAMETERS
from tests.support.stack import Stack, running_stack

pytestmark = pytest.mark.process
TOOLS: list[Any] = [{"name": "get_weather", "description": "The weather.", "input_schema": PARAMETERS}]
SYSTEM = "You look up the weather. " * 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("messages")
    with running_stack(tmp, make_puppet(tmp / "model"), engines=2) as it:
        yield it


@pytest.fixture
def client(stack: Stack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=stack.url, api_key="any", max_retries=0) as made:
        yield made


def test_an_agent_works_and_what_it_said_before_comes_from_the_cache(client: anthropic.Anthropic) -> None:
    """A streamed call, its result, the last word; the second prompt is computed from where the first one ended."""
    messages: list[Any] = [{"role": "user", "content": "play says"}]
    asked: dict[str, Any] = {"model": "m", "max_tokens": 500, "system": SYSTEM, "tools": TOOLS, "messages": messages}
    with client.messages.stream(**asked) as stream:
        first = stream.get_final_message()
    text, call = first.content
    assert (text.text, call.input, first.stop_reason) == ("Let me look that up.", {"city": "Lima"}, "tool_use")
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "21"}]},
    ]
    last = client.messages.create(**asked)
    assert (last.content[0].text, last.stop_reason) == (SCRIPTS["final"], "end_turn")
    before = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert last.usage.cache_read_input_tokens >= before - 16
    assert last.usage.input_tokens < before


def test_a_prompt_may_be_computed_ahead(client: anthropic.Anthropic) -> None:
    """``max_tokens: 0``, and the request that follows reads all but its last token."""
    asked: dict[str, Any] = {
        "model": "m",
        "system": SYSTEM * 2,
        "messages": [{"role": "user", "content": "play muses"}],
    }
    assert client.messages.create(**asked, max_tokens=0).content == []
    message = client.messages.create(**asked, max_tokens=100)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.input_tokens <= 16


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
@pytest.mark.parametrize("stream", [False, True])
def test_what_must_be_called_is_called_whatever_the_model_wants(
    client: anthropic.Anthropic, choice: Any, stream: bool
) -> None:
    """Any tool or the one named, with an input that its schema allows and the model would not choose, and no text."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Bern", "Bonn"]}}, "required": ["city"]}
    tools = [{"name": "get_weather", "input_schema": schema}]
    asked: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "play call"}]}
    asked |= {"tools": tools, "tool_choice": choice | {"disable_parallel_tool_use": True}}
    if stream:
        with client.messages.stream(**asked) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**asked)
    (call,) = message.content
    assert (call.type, call.input["city"] in ("Bern", "Bonn"), message.stop_reason) == ("tool_use", True, "tool_use")


class Weather(pydantic.BaseModel):
    """What a model is to say that would fill an object in another way."""

    city: Literal["Bern", "Bonn"]
    degrees: Literal[2, 4]


def test_an_answer_is_what_its_schema_says(client: anthropic.Anthropic) -> None:
    """As the official client asks for it and reads it; a schema that cannot be held to is refused by name."""
    asked: dict[str, Any] = {"model": "m", "max_tokens": 200, "messages": [{"role": "user", "content": "play json"}]}
    message = client.messages.parse(**asked, output_format=Weather)
    assert message.stop_reason == "end_turn"
    assert message.parsed_output.degrees in (2, 4)
    wrong = {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(**asked, output_config=wrong)
