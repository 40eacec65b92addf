"""Instructor: objects by calls, by JSON and by schemas, retries, streams of parts, several at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import instructor
import openai
import pytest
from instructor.exceptions import InstructorRetryException
from pydantic import BaseModel, field_validator

MODEL = "puppet"


class Weather(BaseModel):
    """Weather of a city."""

    city: str
    degrees: int


class Plausible(Weather):
    """Weather as it may be."""

    @field_validator("degrees")
    @classmethod
    def not_too_hot(cls, value: int) -> int:
        if value > 100:
            raise ValueError("too hot")
        return value


Plausible.__name__ = "Weather"  # the name of the tool
BERLIN = {"city": "Berlin", "degrees": 21}
PLAYS = {
    instructor.Mode.TOOLS: "record",
    instructor.Mode.TOOLS_STRICT: "record",
    instructor.Mode.JSON: "object",
    instructor.Mode.JSON_SCHEMA: "object",
    instructor.Mode.MD_JSON: "object",
    instructor.Mode.RESPONSES_TOOLS: "record",
}


def client(mode: instructor.Mode = instructor.Mode.TOOLS) -> Any:
    return instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)


def ask(play: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "You know the weather."}, {"role": "user", "content": f"play {play}."}]


@pytest.mark.parametrize("mode", PLAYS, ids=lambda mode: mode.value)
def test_an_object_in_each_mode(mode: instructor.Mode) -> None:
    """Every way in which it asks for one."""
    answer = client(mode).create(model=MODEL, response_model=Weather, messages=ask(PLAYS[mode]), max_retries=0)
    assert answer.model_dump() == BERLIN


def test_a_provider_by_its_name() -> None:
    """The docs' first example: settings from the environment."""
    made = instructor.from_provider(f"openai/{MODEL}")
    assert made.create(response_model=Weather, messages=ask("record")).model_dump() == BERLIN


@pytest.mark.parametrize(
    ("mode", "play"),
    [(instructor.Mode.TOOLS, "mended record"), (instructor.Mode.JSON_SCHEMA, "mended object")],
    ids=["tools", "schema"],
)
def test_a_wrong_object_is_asked_for_again(mode: instructor.Mode, play: str) -> None:
    """What the validator says goes back, with the answer it speaks of."""
    answer = client(mode).create(model=MODEL, response_model=Plausible, messages=ask(play), max_retries=1)
    assert answer.model_dump() == BERLIN


def test_retries_end() -> None:
    """With the framework's error."""
    with pytest.raises(InstructorRetryException):
        client().create(model=MODEL, response_model=Plausible, messages=ask("mended record"), max_retries=0)


def test_an_object_grows_in_a_stream() -> None:
    """``create_partial``, which names the tool after itself: each state has no less than the one before."""
    states = list(client().create_partial(model=MODEL, response_model=Weather, messages=ask("partial")))
    assert len(states) > 1
    assert states[-1].model_dump() == BERLIN


def test_usage_comes_with_the_object() -> None:
    """``create_with_completion``."""
    answer, completion = client().create_with_completion(model=MODEL, response_model=Weather, messages=ask("record"))
    assert answer.model_dump() == BERLIN
    assert completion.usage.completion_tokens > 0


def test_several_objects_in_one_answer() -> None:
    """``PARALLEL_TOOLS``: a call for each."""
    made = client(instructor.Mode.PARALLEL_TOOLS)
    found = made.create(model=MODEL, response_model=Iterable[Weather], messages=ask("record"))
    assert [weather.model_dump() for weather in found] == [BERLIN]


@pytest.mark.anyio
async def test_the_asynchronous_client() -> None:
    """The same awaited."""
    made = instructor.from_openai(openai.AsyncOpenAI(max_retries=0))
    answer = await made.create(model=MODEL, response_model=Weather, messages=ask("record"))
    assert answer.model_dump() == BERLIN
