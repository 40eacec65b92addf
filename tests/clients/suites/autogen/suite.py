"""AutoGen: its client for this API, assistants with tools, and teams of them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_core import CancellationToken
from autogen_core.models import CreateResult, SystemMessage, UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

pytestmark = pytest.mark.anyio
MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."
INFO: Any = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "multiple_system_messages": True,
    "family": "unknown",
}


class Weather(BaseModel):
    city: str
    degrees: int


BERLIN = Weather(city="Berlin", degrees=21)


async def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}, 21"


TOOL = FunctionTool(get_weather, description="Weather of a city.")


@pytest.fixture
def client(url: str, key: str) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(model=MODEL, base_url=url, api_key=key, model_info=INFO, max_retries=0)


def ask(play: str) -> list[Any]:
    return [SystemMessage(content="Be brief."), UserMessage(content=f"play {play}.", source="user")]


def cities(result: CreateResult) -> list[str]:
    return [json.loads(call.arguments)["city"] for call in result.content]  # type: ignore[union-attr]


async def test_the_client_answers(client: OpenAIChatCompletionClient) -> None:
    """Text and usage."""
    result = await client.create(ask("nothing"))
    assert (result.content, result.finish_reason) == (SENTENCE, "stop")
    assert result.usage.completion_tokens > 0


async def test_the_client_streams(client: OpenAIChatCompletionClient) -> None:
    """Pieces, then the whole result with its usage."""
    options: Any = {"stream_options": {"include_usage": True}}
    events = [event async for event in client.create_stream(ask("nothing"), extra_create_args=options)]
    assert "".join(event for event in events if isinstance(event, str)) == SENTENCE
    assert events[-1].content == SENTENCE
    assert events[-1].usage.completion_tokens > 0


async def test_tools_are_called(client: OpenAIChatCompletionClient) -> None:
    """Free, required, by name, forbidden, in parallel, streamed."""
    for choice in ("auto", "required", TOOL):
        result = await client.create(ask("call"), tools=[TOOL], tool_choice=choice)
        assert result.finish_reason == "function_calls"
        assert cities(result) == ["Berlin"]
    assert isinstance((await client.create(ask("call"), tools=[TOOL], tool_choice="none")).content, str)
    assert cities(await client.create(ask("pair"), tools=[TOOL])) == ["Oslo", "Rome"]
    events = [event async for event in client.create_stream(ask("pair"), tools=[TOOL])]
    assert cities(events[-1]) == ["Oslo", "Rome"]


async def test_an_object(client: OpenAIChatCompletionClient) -> None:
    """A class as ``json_output``, and any JSON."""
    assert Weather.model_validate_json((await client.create(ask("object"), json_output=Weather)).content) == BERLIN
    assert json.loads((await client.create(ask("object"), json_output=True)).content) == BERLIN.model_dump()


async def test_reasoning_is_a_thought(client: OpenAIChatCompletionClient) -> None:
    """Beside the content."""
    result = await client.create(ask("musing"))
    assert (result.thought, result.content) == ("An easy one.", "It is Madrid, of course.")


async def test_a_request_can_be_given_up(client: OpenAIChatCompletionClient) -> None:
    """A cancelled token ends it."""
    import asyncio

    token = CancellationToken()
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.create(ask("nothing"), cancellation_token=token)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_assistant_in_two_rounds(client: OpenAIChatCompletionClient, stream: bool) -> None:
    """Calls and their results until there are none."""
    agent = AssistantAgent("a", client, tools=[TOOL], max_tool_iterations=4, model_client_stream=stream)
    result = await agent.run(task="play rounds.")
    kinds = [m.type for m in result.messages]
    assert kinds.count("ToolCallExecutionEvent") == 2
    assert result.messages[-1].to_text() == "Rome is warmer than Oslo."


async def test_an_assistant_reflects(client: OpenAIChatCompletionClient) -> None:
    """On results of parallel calls."""
    agent = AssistantAgent("a", client, tools=[TOOL], reflect_on_tool_use=True)
    assert (await agent.run(task="play pair.")).messages[-1].to_text() == "Rome is warmer than Oslo."


async def test_an_assistant_with_an_object(client: OpenAIChatCompletionClient) -> None:
    """``output_content_type``."""
    result = await AssistantAgent("a", client, output_content_type=Weather).run(task="play object.")
    assert result.messages[-1].content == BERLIN


async def test_a_team_in_turns(client: OpenAIChatCompletionClient) -> None:
    """Two assistants, one after the other."""
    team = RoundRobinGroupChat(
        [AssistantAgent("a", client), AssistantAgent("b", client)], termination_condition=MaxMessageTermination(3)
    )
    messages = (await team.run(task="play nothing.")).messages
    assert [(m.source, m.to_text()) for m in messages[1:]] == [("a", SENTENCE), ("b", SENTENCE)]


async def test_a_handover_in_a_swarm(client: OpenAIChatCompletionClient) -> None:
    """The call of a handover is the next one's turn."""
    first = AssistantAgent("a", client, handoffs=["geographer"])
    second = AssistantAgent("geographer", client)
    team = Swarm([first, second], termination_condition=TextMentionTermination("capital") | MaxMessageTermination(9))
    messages = (await team.run(task="play handover.")).messages
    assert (messages[-1].source, messages[-1].to_text()) == ("geographer", SENTENCE)


async def test_errors_are_the_clients(url: str, key: str) -> None:
    """A wrong model."""
    client = OpenAIChatCompletionClient(model="gpt-9", base_url=url, api_key=key, model_info=INFO, max_retries=0)
    with pytest.raises(openai.NotFoundError):
        await client.create(ask("nothing"))
