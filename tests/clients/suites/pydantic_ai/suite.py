"""Pydantic AI: text, streams, tools, and its three ways to an object, over all three APIs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

pytestmark = pytest.mark.anyio
MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."


class Weather(BaseModel):
    """Weather of a city."""

    city: str
    degrees: int


BERLIN = Weather(city="Berlin", degrees=21)


@pytest.fixture(params=["chat", "responses", "messages"])
def model(request: pytest.FixtureRequest) -> Any:
    if request.param == "messages":
        return AnthropicModel(MODEL)
    return {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[request.param](MODEL)


@pytest.fixture
def chat(url: str, key: str) -> OpenAIChatModel:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=key))


def with_weather(model: Any, **more: Any) -> tuple[Any, list[str]]:
    """An agent with the tool, and the cities that it was asked for."""
    asked: list[str] = []
    agent: Any = Agent(model, **more)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Weather of a city."""
        asked.append(city)
        return f"sunny in {city}, 21"

    return agent, asked


@pytest.mark.parametrize("name", ["openai", "openai-chat", "openai-responses"])
async def test_a_model_by_its_name(name: str) -> None:
    """The first example of the docs, settings from the environment."""
    assert (await Agent(f"{name}:{MODEL}").run("play nothing.")).output == SENTENCE


async def test_an_agent_answers(model: Any) -> None:
    """Text, and its usage."""
    result = await Agent(model, system_prompt="Be brief.").run("play nothing.")
    assert result.output == SENTENCE
    assert result.usage.output_tokens > 0


async def test_an_agent_streams(model: Any) -> None:
    """Pieces of text."""
    async with Agent(model).run_stream("play nothing.") as run:
        pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 3
    assert "".join(pieces) == SENTENCE


async def test_two_rounds_of_calls(model: Any) -> None:
    """With text beside the first."""
    agent, asked = with_weather(model)
    assert (await agent.run("play rounds.")).output == "Rome is warmer than Oslo."
    assert asked == ["Oslo", "Rome"]


async def test_streamed_calls(model: Any) -> None:
    """Two in one answer."""
    agent, asked = with_weather(model)
    async with agent.run_stream("play pair.") as run:
        assert await run.get_output() == "Rome is warmer than Oslo."
    assert sorted(asked) == ["Oslo", "Rome"]


async def test_a_history_goes_on(model: Any) -> None:
    """Messages of a run are given to the next."""
    agent, _ = with_weather(model)
    first = await agent.run("play call.")
    assert first.output == ANSWER
    assert (await agent.run("play nothing.", message_history=first.all_messages())).output == SENTENCE


async def test_an_object_by_a_call(model: Any) -> None:
    """The default: a tool that must be called, after another one or at once."""
    agent, asked = with_weather(model, output_type=Weather)
    assert (await agent.run("play result.")).output == BERLIN
    assert asked == ["Berlin"]
    named = Agent(model, output_type=ToolOutput(Weather, name="Weather"))
    assert (await named.run("play record.")).output == BERLIN


async def test_an_object_by_its_schema(chat: OpenAIChatModel) -> None:
    """``NativeOutput``, over chats and over responses."""
    for model in (chat, OpenAIResponsesModel(MODEL)):
        assert (await Agent(model, output_type=NativeOutput(Weather)).run("play object.")).output == BERLIN


async def test_an_object_by_a_prompt(chat: OpenAIChatModel) -> None:
    """``PromptedOutput``: any JSON, checked afterwards."""
    assert (await Agent(chat, output_type=PromptedOutput(Weather)).run("play object.")).output == BERLIN


async def test_a_wrong_object_is_asked_for_again(chat: OpenAIChatModel) -> None:
    """An output validator sends the model back."""
    agent = Agent(chat, output_type=ToolOutput(Weather, name="Weather"), retries=2)
    seen = []

    @agent.output_validator
    def plausible(value: Weather) -> Weather:
        seen.append(value.degrees)
        if value.degrees > 100:
            raise ModelRetry("too hot")
        return value

    assert (await agent.run("play mended record.")).output == BERLIN
    assert seen == [2100, 21]


async def test_reasoning_is_a_part(chat: OpenAIChatModel) -> None:
    """A thinking part beside the text."""
    result = await Agent(chat).run("play musing.")
    parts = {part.part_kind: part.content for part in result.all_messages()[-1].parts}
    assert parts == {"thinking": "An easy one.", "text": "It is Madrid, of course."}


async def test_settings_are_taken(chat: OpenAIChatModel) -> None:
    """What ``model_settings`` has."""
    settings: Any = {
        "temperature": 0, "seed": 1, "max_tokens": 50, "frequency_penalty": 0.1, "logit_bias": {"5": -1},
        "parallel_tool_calls": False, "stop_sequences": [", as"],
    }  # fmt: skip
    agent, _ = with_weather(chat, model_settings=settings)
    assert (await agent.run("play nothing.")).output == "Paris is the capital of France"


async def test_errors_are_raised() -> None:
    """A wrong model, as the framework's error."""
    with pytest.raises(ModelHTTPError) as wrong:
        await Agent(OpenAIChatModel("gpt-9")).run("hi")
    assert wrong.value.status_code == 404
