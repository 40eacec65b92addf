"""CrewAI: its model, agents with tools, tasks with objects, crews of two."""

from __future__ import annotations

from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from pydantic import BaseModel

MODEL = "openai/puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."
asked: list[str] = []


class Weather(BaseModel):
    """Weather of a city."""

    city: str
    degrees: int


BERLIN = Weather(city="Berlin", degrees=21)


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    asked.append(city)
    return f"sunny in {city}, 21"


@pytest.fixture
def llm(url: str, key: str) -> LLM:
    asked.clear()
    return LLM(model=MODEL, base_url=url, api_key=key)


def agent(llm: LLM, **more: Any) -> Agent:
    return Agent(role="reporter", goal="report", backstory="You know the weather.", llm=llm, verbose=False, **more)


def crew(who: Agent, play: str, **more: Any) -> Any:
    task = Task(description=f"play {play}.", expected_output="a sentence", agent=who, **more)
    return Crew(agents=[who], tasks=[task], verbose=False).kickoff()


def test_a_model_is_called(llm: LLM) -> None:
    """Text, as a string and as messages."""
    assert llm.call("play nothing.") == SENTENCE
    assert llm.call([{"role": "system", "content": "x"}, {"role": "user", "content": "play nothing."}]) == SENTENCE


def test_a_model_streams(url: str, key: str) -> None:
    """Put together by it."""
    assert LLM(model=MODEL, base_url=url, api_key=key, stream=True).call("play nothing.") == SENTENCE


def test_a_model_makes_an_object(llm: LLM) -> None:
    """``response_model``."""
    assert llm.call("play object.", response_model=Weather) in (BERLIN, BERLIN.model_dump_json())


def test_a_crew_of_one(llm: LLM) -> None:
    """A task, its text and what it took."""
    result = crew(agent(llm), "nothing")
    assert result.raw == SENTENCE
    assert result.token_usage.completion_tokens > 0


def test_two_rounds_of_calls(llm: LLM) -> None:
    """Each result is answered, to the end."""
    result = crew(agent(llm, tools=[get_weather]), "rounds")
    assert asked == ["Oslo", "Rome"]
    assert result.raw == "Rome is warmer than Oslo."


def test_calls_in_parallel(llm: LLM) -> None:
    """Two in one answer."""
    result = crew(agent(llm, tools=[get_weather]), "pair")
    assert sorted(asked) == ["Oslo", "Rome"]
    assert result.raw == "Rome is warmer than Oslo."


def test_a_streaming_agent_calls_tools(url: str, key: str) -> None:
    """Calls put together from pieces."""
    asked.clear()
    who = agent(LLM(model=MODEL, base_url=url, api_key=key, stream=True), tools=[get_weather])
    assert crew(who, "call").raw == ANSWER
    assert asked == ["Berlin"]


def test_a_task_with_an_object(llm: LLM) -> None:
    """``output_pydantic``."""
    assert crew(agent(llm), "object", output_pydantic=Weather).pydantic == BERLIN


def test_a_crew_of_two(llm: LLM) -> None:
    """The second task sees the first one's text."""
    first, second = agent(llm), agent(llm, tools=[get_weather])
    tasks = [
        Task(description="play nothing.", expected_output="a sentence", agent=first),
        Task(description="play call.", expected_output="a sentence", agent=second),
    ]
    result = Crew(agents=[first, second], tasks=tasks, verbose=False).kickoff()
    assert [task.raw for task in result.tasks_output] == [SENTENCE, ANSWER]


@pytest.mark.anyio
async def test_an_awaited_agent(llm: LLM) -> None:
    """``kickoff_async`` of an agent alone."""
    assert (await agent(llm).kickoff_async("play nothing.")).raw == SENTENCE


def test_errors_are_raised(url: str, key: str) -> None:
    """A wrong model, in words."""
    with pytest.raises(Exception, match="gpt-9"):
        LLM(model="openai/gpt-9", base_url=url, api_key=key).call("hi")
