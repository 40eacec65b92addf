"""LlamaIndex: its model for servers of this API, structured prediction, function and ReAct-free agents."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
from pydantic import BaseModel

MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."


class Weather(BaseModel):
    """Weather of a city."""

    city: str
    degrees: int


BERLIN = Weather(city="Berlin", degrees=21)


@pytest.fixture
def llm(url: str, key: str) -> OpenAILike:
    return OpenAILike(
        model=MODEL, api_base=url, api_key=key, is_chat_model=True, is_function_calling_model=True,
        context_window=16_384, max_retries=0,
    )  # fmt: skip


def weather_tool() -> tuple[FunctionTool, list[str]]:
    """The tool, and the cities that it was asked for."""
    asked: list[str] = []

    def get_weather(city: str) -> str:
        """Weather of a city."""
        asked.append(city)
        return f"sunny in {city}, 21"

    return FunctionTool.from_defaults(get_weather), asked


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=text)]


def test_a_chat_and_its_stream(llm: OpenAILike) -> None:
    """Text, whole and in pieces."""
    assert llm.chat(user("play nothing.")).message.content == SENTENCE
    assert "".join(piece.delta or "" for piece in llm.stream_chat(user("play nothing."))) == SENTENCE


@pytest.mark.anyio
async def test_awaited_chats(llm: OpenAILike) -> None:
    """``achat`` and ``astream_chat``."""
    assert (await llm.achat(user("play nothing."))).message.content == SENTENCE
    assert "".join([p.delta or "" async for p in await llm.astream_chat(user("play nothing."))]) == SENTENCE


def test_a_prompt_is_completed(llm: OpenAILike, url: str, key: str) -> None:
    """``complete``, of a chat model and over the older API."""
    assert llm.complete("play nothing.").text == SENTENCE
    plain = OpenAILike(model=MODEL, api_base=url, api_key=key, is_chat_model=False, max_tokens=4, max_retries=0)
    assert isinstance(plain.complete("hi").text, str)


def test_tools_are_chosen(llm: OpenAILike) -> None:
    """``chat_with_tools``: free, required, parallel, and what it says of them."""
    tool, _ = weather_tool()
    for required in (False, True):
        answer = llm.chat_with_tools([tool], user_msg="play call.", tool_required=required)
        calls = llm.get_tool_calls_from_response(answer)
        assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("get_weather", {"city": "Berlin"})]
    answer = llm.chat_with_tools([tool], user_msg="play pair.", allow_parallel_tool_calls=True)
    assert len(llm.get_tool_calls_from_response(answer)) == 2


def test_a_tool_is_called_for_the_user(llm: OpenAILike) -> None:
    """``predict_and_call``."""
    tool, asked = weather_tool()
    assert llm.predict_and_call([tool], user_msg="play call.").response == "sunny in Berlin, 21"
    assert asked == ["Berlin"]


def test_an_object_by_a_call(llm: OpenAILike) -> None:
    """``structured_predict`` and ``as_structured_llm``."""
    prompt = PromptTemplate("play {what}.")
    assert llm.structured_predict(Weather, prompt, what="record") == BERLIN
    assert llm.as_structured_llm(Weather).chat(user("play record.")).raw == BERLIN


def test_an_object_by_its_schema(url: str, key: str) -> None:
    """A model that is said to write structured output is asked by ``response_format``."""
    llm = OpenAILike(
        model=MODEL, api_base=url, api_key=key, is_chat_model=True, should_use_structured_outputs=True, max_retries=0
    )
    assert llm.structured_predict(Weather, PromptTemplate("play object.")) == BERLIN


def test_settings_pass(url: str, key: str) -> None:
    """``additional_kwargs`` and JSON mode."""
    more: Any = {"frequency_penalty": 0.1, "seed": 1, "response_format": {"type": "json_object"}}
    llm = OpenAILike(model=MODEL, api_base=url, api_key=key, is_chat_model=True, additional_kwargs=more, max_retries=0)
    assert json.loads(llm.chat(user("play object.")).message.content) == BERLIN.model_dump()


@pytest.mark.anyio
async def test_an_agent_in_two_rounds(llm: OpenAILike) -> None:
    """``FunctionAgent``, whose model is streamed."""
    tool, asked = weather_tool()
    agent = FunctionAgent(tools=[tool], llm=llm, system_prompt="You know the weather.")
    assert str(await agent.run("play rounds.")) == "Rome is warmer than Oslo."
    assert asked == ["Oslo", "Rome"]


@pytest.mark.anyio
async def test_an_agent_with_parallel_calls_unstreamed(llm: OpenAILike) -> None:
    """Both results go back."""
    tool, asked = weather_tool()
    agent = FunctionAgent(tools=[tool], llm=llm, streaming=False)
    assert str(await agent.run("play pair.")) == "Rome is warmer than Oslo."
    assert sorted(asked) == ["Oslo", "Rome"]


@pytest.mark.anyio
async def test_an_agent_remembers(llm: OpenAILike) -> None:
    """A second question over the same memory."""
    tool, _ = weather_tool()
    workflow = AgentWorkflow.from_tools_or_functions([tool], llm=llm)
    memory = ChatMemoryBuffer.from_defaults(token_limit=10_000, tokenizer_fn=str.split)
    assert str(await workflow.run("play call.", memory=memory)) == ANSWER
    assert str(await workflow.run("play nothing.", memory=memory)) == SENTENCE
    assert len(memory.get_all()) == 6


@pytest.mark.anyio
async def test_an_agent_ends_with_an_object(llm: OpenAILike) -> None:
    """``output_cls``: a last question for it, with all that was said in one message."""
    result = await FunctionAgent(tools=[], llm=llm, output_cls=Weather).run("play record.")
    assert result.get_pydantic_model(Weather) == BERLIN


@pytest.mark.anyio
async def test_the_responses_api(url: str, key: str) -> None:
    """``OpenAILikeResponses``: text, and an agent's loop."""
    llm = OpenAILikeResponses(
        model=MODEL, api_base=url, api_key=key, is_chat_model=True, is_function_calling_model=True,
        context_window=16_384, max_retries=0,
    )  # fmt: skip
    assert llm.chat(user("play nothing.")).message.content == SENTENCE
    tool, asked = weather_tool()
    assert str(await FunctionAgent(tools=[tool], llm=llm).run("play rounds.")) == "Rome is warmer than Oslo."
    assert asked == ["Oslo", "Rome"]


def test_errors_are_the_clients(url: str, key: str) -> None:
    """A wrong model."""
    with pytest.raises(openai.NotFoundError):
        OpenAILike(model="gpt-9", api_base=url, api_key=key, is_chat_model=True, max_retries=0).chat(user("hi"))
