"""LangChain's chat model, and the agents of LangChain and LangGraph."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."


class Weather(BaseModel):
    """Weather of a city."""

    city: str
    degrees: int


BERLIN = Weather(city="Berlin", degrees=21)


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}, 21"


@pytest.fixture
def chat(url: str, key: str) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=url, api_key=key, max_retries=0)


def kinds(messages: list[Any]) -> list[str]:
    return [message.type for message in messages]


def test_a_chat_with_its_usage(chat: ChatOpenAI) -> None:
    """Text, and how many tokens it took."""
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage("play nothing.")])
    assert answer.content == SENTENCE
    assert answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"


def test_a_history_with_parts(chat: ChatOpenAI) -> None:
    """Content as a list of parts, and earlier turns."""
    parts = HumanMessage([{"type": "text", "text": "play nothing."}])
    assert chat.invoke([parts, AIMessage("x"), HumanMessage("again")]).content == SENTENCE


def test_streams_and_batches(chat: ChatOpenAI) -> None:
    """Pieces, with usage at the end; several at once."""
    whole = None
    pieces = 0
    for piece in chat.stream("play nothing.", stream_usage=True):
        whole = piece if whole is None else whole + piece
        pieces += 1
    assert pieces > 3
    assert whole.content == SENTENCE
    assert whole.usage_metadata["output_tokens"] > 0
    assert [answer.content for answer in chat.batch(["play nothing."] * 3)] == [SENTENCE] * 3


@pytest.mark.anyio
async def test_asynchronous_calls(chat: ChatOpenAI) -> None:
    """``ainvoke`` and ``astream``."""
    assert (await chat.ainvoke("play nothing.")).content == SENTENCE
    assert "".join([piece.content async for piece in chat.astream("play nothing.")]) == SENTENCE


def test_a_chain(chat: ChatOpenAI) -> None:
    """Prompt, model, parser."""
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "play {what}.")]) | chat
    assert (chain | StrOutputParser()).invoke({"what": "nothing"}) == SENTENCE


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output_as_text(chat: ChatOpenAI, method: str) -> None:
    """``with_structured_output`` by ``response_format``."""
    assert chat.with_structured_output(Weather, method=method).invoke("JSON please, play object.") == BERLIN


def test_structured_output_as_a_call(chat: ChatOpenAI) -> None:
    """``with_structured_output`` by a tool that must be called, streamed too."""
    made = chat.with_structured_output(Weather, method="function_calling")
    assert made.invoke("play record.") == BERLIN
    assert list(made.stream("play record."))[-1] == BERLIN


@pytest.mark.parametrize("choice", [None, "any", "get_weather", "auto"])
def test_bound_tools_are_called(chat: ChatOpenAI, choice: str | None) -> None:
    """Whatever the choice."""
    answer = chat.bind_tools([get_weather], tool_choice=choice).invoke("play call.")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("get_weather", {"city": "Berlin"})]


def test_strict_tools_streamed(chat: ChatOpenAI) -> None:
    """Pieces of calls add up, two of them in one answer."""
    whole = None
    for piece in chat.bind_tools([get_weather], strict=True).stream("play pair."):
        whole = piece if whole is None else whole + piece
    assert [call["args"]["city"] for call in whole.tool_calls] == ["Oslo", "Rome"]


def test_one_call_at_a_time(chat: ChatOpenAI) -> None:
    """``parallel_tool_calls=False``."""
    answer = chat.bind_tools([get_weather], parallel_tool_calls=False).invoke("play pair.")
    assert [call["args"]["city"] for call in answer.tool_calls] == ["Oslo"]


def test_settings_of_the_model(url: str, key: str) -> None:
    """Penalties, bias, log-probabilities, stop strings."""
    chat = ChatOpenAI(
        model=MODEL, base_url=url, api_key=key, max_retries=0, temperature=0, frequency_penalty=0.2,
        presence_penalty=0.1, seed=3, logprobs=True, top_logprobs=2, max_tokens=40, stop=[" as far"],
    )  # fmt: skip
    answer = chat.invoke("play nothing.")
    assert answer.content == "Paris is the capital of France,"
    assert answer.response_metadata["logprobs"]["content"]


def test_the_responses_api(url: str, key: str) -> None:
    """``use_responses_api``: text, its stream, a call."""
    chat = ChatOpenAI(model=MODEL, base_url=url, api_key=key, max_retries=0, use_responses_api=True)
    assert chat.invoke("play nothing.").text == SENTENCE
    assert "".join(piece.text for piece in chat.stream("play nothing.")) == SENTENCE
    assert chat.bind_tools([get_weather]).invoke("play call.").tool_calls[0]["args"] == {"city": "Berlin"}


def test_the_responses_api_in_an_agent(url: str, key: str) -> None:
    """A loop over items."""
    chat = ChatOpenAI(model=MODEL, base_url=url, api_key=key, max_retries=0, use_responses_api=True)
    messages = create_agent(chat, [get_weather]).invoke({"messages": [("user", "play rounds.")]})["messages"]
    assert kinds(messages) == ["human", "ai", "tool", "ai", "tool", "ai"]


def test_completions(url: str, key: str) -> None:
    """``OpenAI``, whose prompt is a string."""
    assert isinstance(OpenAI(model=MODEL, base_url=url, api_key=key, max_retries=0, max_tokens=4).invoke("hi"), str)


def test_an_agent_of_langchain(chat: ChatOpenAI) -> None:
    """``create_agent``: two rounds of calls, then the answer."""
    agent = create_agent(chat, [get_weather], system_prompt="You know the weather.")
    messages = agent.invoke({"messages": [("user", "play rounds.")]})["messages"]
    assert kinds(messages) == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert [m.content for m in messages if isinstance(m, ToolMessage)] == ["sunny in Oslo, 21", "sunny in Rome, 21"]
    assert messages[-1].content == "Rome is warmer than Oslo."


def test_an_agent_with_parallel_calls(chat: ChatOpenAI) -> None:
    """Both results go back together."""
    messages = create_agent(chat, [get_weather]).invoke({"messages": [("user", "play pair.")]})["messages"]
    assert kinds(messages) == ["human", "ai", "tool", "tool", "ai"]


def test_an_agent_with_a_structured_answer(chat: ChatOpenAI) -> None:
    """``response_format``: the last answer is an object."""
    agent = create_agent(chat, [], response_format=Weather)
    assert agent.invoke({"messages": [("user", "play record.")]})["structured_response"] == BERLIN


def test_a_react_agent_of_langgraph(chat: ChatOpenAI) -> None:
    """``create_react_agent`` with a memory: a second question in the same thread."""
    agent = create_react_agent(chat, [get_weather], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    first = agent.invoke({"messages": [("user", "play call.")]}, thread)["messages"]
    assert kinds(first) == ["human", "ai", "tool", "ai"]
    assert first[-1].content == ANSWER
    second = agent.invoke({"messages": [("user", "play nothing.")]}, thread)["messages"]
    assert len(second) == 6
    assert second[-1].content == SENTENCE


@pytest.mark.anyio
async def test_a_react_agent_streams_messages(chat: ChatOpenAI) -> None:
    """``stream_mode="messages"``: pieces of text, and the tool's message among them."""
    agent = create_react_agent(chat, [get_weather])
    seen = [m async for m, _ in agent.astream({"messages": [("user", "play call.")]}, stream_mode="messages")]
    assert any(isinstance(message, ToolMessage) for message in seen)
    assert "".join(m.content for m in seen if m.type == "AIMessageChunk") == ANSWER


def test_errors_are_raised(url: str, key: str) -> None:
    """A wrong model, as the openai client's error."""
    import openai

    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(model="gpt-9", base_url=url, api_key=key, max_retries=0).invoke("hi")


def test_the_messages_api(address: str, key: str) -> None:
    """``ChatAnthropic``: text, its stream, an agent's loop."""
    chat = ChatAnthropic(model=MODEL, base_url=address, api_key=key, max_retries=0, max_tokens=100)
    assert chat.invoke("play nothing.").text == SENTENCE
    assert "".join(piece.text for piece in chat.stream("play nothing.")) == SENTENCE
    messages = create_agent(chat, [get_weather]).invoke({"messages": [("user", "play rounds.")]})["messages"]
    assert kinds(messages) == ["human", "ai", "tool", "ai", "tool", "ai"]
