"""OpenAI's agents SDK, over the Responses API as it comes, and over chats."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

pytestmark = pytest.mark.anyio
MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."
set_tracing_disabled(True)


class Weather(BaseModel):
    city: str
    degrees: int


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}, 21"


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel], ids=["responses", "chat"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.param(model=MODEL, openai_client=AsyncOpenAI(max_retries=0))


def kinds(result: Any) -> list[str]:
    return [item.type for item in result.new_items]


CALL, RESULT, MESSAGE = "tool_call_item", "tool_call_output_item", "message_output_item"


async def test_the_first_example() -> None:
    """A model by its name: the default client, and the Responses API."""
    result = await Runner.run(Agent(name="Assistant", instructions="Be brief.", model=MODEL), "play nothing.")
    assert result.final_output == SENTENCE


async def test_an_agent_answers(model: Any) -> None:
    """Text, and what it took."""
    result = await Runner.run(Agent(name="a", instructions="Be brief.", model=model), "play nothing.")
    assert result.final_output == SENTENCE
    assert result.context_wrapper.usage.output_tokens > 0


async def test_an_agent_streams(model: Any) -> None:
    """Pieces of text as events."""
    run = Runner.run_streamed(Agent(name="a", model=model), "play nothing.")
    pieces = [
        event.data.delta
        async for event in run.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert len(pieces) > 3
    assert "".join(pieces) == run.final_output == SENTENCE


async def test_two_rounds_of_calls(model: Any) -> None:
    """Each result is answered, to the end."""
    result = await Runner.run(Agent(name="a", model=model, tools=[get_weather]), "play rounds.")
    assert [kind for kind in kinds(result) if kind != MESSAGE] == [CALL, RESULT, CALL, RESULT]
    assert result.final_output == "Rome is warmer than Oslo."


async def test_streamed_calls(model: Any) -> None:
    """Two in one answer."""
    run = Runner.run_streamed(Agent(name="a", model=model, tools=[get_weather]), "play pair.")
    async for _ in run.stream_events():
        pass
    assert kinds(run) == [CALL, CALL, RESULT, RESULT, MESSAGE]
    assert run.final_output == "Rome is warmer than Oslo."


async def test_a_call_can_be_required(model: Any) -> None:
    """``tool_choice`` by one word and by a name."""
    for choice in ("required", "get_weather"):
        settings = ModelSettings(tool_choice=choice, parallel_tool_calls=False, temperature=0)
        agent = Agent(name="a", model=model, tools=[get_weather], model_settings=settings)
        assert kinds(await Runner.run(agent, "play call.")) == [CALL, RESULT, MESSAGE]


async def test_an_object_as_output(model: Any) -> None:
    """``output_type``: a schema that must be kept."""
    result = await Runner.run(Agent(name="a", model=model, output_type=Weather), "play object.")
    assert result.final_output == Weather(city="Berlin", degrees=21)


async def test_an_object_after_a_call(model: Any) -> None:
    """``output_type`` with tools: the call is made first, then the object."""
    agent = Agent(name="a", model=model, tools=[get_weather], output_type=Weather)
    result = await Runner.run(agent, "play call object.")
    assert kinds(result)[:2] == [CALL, RESULT]
    assert result.final_output == Weather(city="Berlin", degrees=21)


async def test_a_handoff(model: Any) -> None:
    """The second agent goes on."""
    other = Agent(name="geographer", model=model, handoff_description="Knows places.")
    result = await Runner.run(Agent(name="a", model=model, handoffs=[other]), "play handover.")
    assert result.last_agent.name == "geographer"
    assert result.final_output == SENTENCE


async def test_an_agent_as_a_tool_and_a_session(model: Any) -> None:
    """What was said before is sent again."""
    session = SQLiteSession("s")
    agent = Agent(name="a", model=model, tools=[get_weather])
    assert (await Runner.run(agent, "play call.", session=session)).final_output == ANSWER
    assert (await Runner.run(agent, "play nothing.", session=session)).final_output == SENTENCE


async def test_reasoning_does_not_end_a_loop(model: Any) -> None:
    """A call after reasoning, and what is sent back with it."""
    result = await Runner.run(Agent(name="a", model=model, tools=[get_weather]), "play thoughtful.")
    assert [kind for kind in kinds(result) if kind != "reasoning_item"] == [CALL, RESULT, MESSAGE]
    assert result.final_output == ANSWER


async def test_errors_are_raised() -> None:
    """A wrong model, as the openai client's error."""
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        with pytest.raises(openai.NotFoundError):
            await Runner.run(Agent(name="a", model=kind("gpt-9", AsyncOpenAI(max_retries=0))), "hi")
