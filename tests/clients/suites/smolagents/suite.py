"""smolagents: its model for servers of this API, agents that call tools and agents that write code."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool
from smolagents.monitoring import LogLevel

MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."


@tool
def get_weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: its name.
    """
    return f"sunny in {city}, 21"


@pytest.fixture
def model(url: str, key: str) -> OpenAIModel:
    return OpenAIModel(MODEL, api_base=url, api_key=key, client_kwargs={"max_retries": 0})


def user(play: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": f"play {play}."}]}]


def test_a_model_answers(model: OpenAIModel) -> None:
    """Text and usage."""
    answer = model.generate(user("nothing"))
    assert answer.content == SENTENCE
    assert answer.token_usage.output_tokens > 0


def test_a_model_streams(model: OpenAIModel) -> None:
    """Pieces, with usage at the end."""
    deltas = list(model.generate_stream(user("nothing")))
    assert "".join(delta.content or "" for delta in deltas) == SENTENCE
    assert deltas[-1].token_usage.output_tokens > 0


def test_a_model_calls_a_tool(model: OpenAIModel) -> None:
    """Its ``tool_choice`` is ``required``."""
    answer = model.generate(user("call"), tools_to_call_from=[get_weather])
    assert [(c.function.name, c.function.arguments) for c in answer.tool_calls] == [
        ("get_weather", '{"city": "Berlin"}')
    ]


def test_a_format_can_be_asked_for(model: OpenAIModel) -> None:
    """``response_format``, as code agents with structured output use it."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": True}}
    assert model.generate(user("object"), response_format=form).content == '{"city": "Berlin", "degrees": 21}'


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_agent_calls_tools_to_its_answer(model: OpenAIModel, stream: bool) -> None:
    """A tool, then the tool that ends it."""
    agent = ToolCallingAgent([get_weather], model, stream_outputs=stream, verbosity_level=LogLevel.OFF)
    assert agent.run("play answer.") == ANSWER
    calls = [call.name for step in agent.memory.steps for call in getattr(step, "tool_calls", None) or []]
    assert calls == ["get_weather", "final_answer"]


def test_an_agent_writes_code(model: OpenAIModel) -> None:
    """Stop strings end it where its code does."""
    assert CodeAgent([], model, verbosity_level=LogLevel.OFF).run("play code.") == 42


def test_a_managed_agent(model: OpenAIModel) -> None:
    """One agent is a tool of another."""
    helper = ToolCallingAgent([get_weather], model, name="helper", description="Knows the weather.", max_steps=3,
                              verbosity_level=LogLevel.OFF)  # fmt: skip
    agent = ToolCallingAgent([get_weather], model, managed_agents=[helper], verbosity_level=LogLevel.OFF)
    assert agent.run("play answer.") == ANSWER


def test_errors_are_the_clients(url: str, key: str) -> None:
    """A wrong model."""
    with pytest.raises(openai.NotFoundError):
        OpenAIModel("gpt-9", api_base=url, api_key=key, client_kwargs={"max_retries": 0}).generate(user("nothing"))
