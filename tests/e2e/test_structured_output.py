"""Answers that must be something: the official client, a gateway, engines and a kvstore.

One stack has a model that plays scripts, so that what differs from the script is the grammar's doing; the other has a
random one, which of itself would never write JSON.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest

from bench.models.tiny import make_model
from tests.services.gateway.tools.random_schemas import random_object
from tests.support.gateway import write_tokenizer
from tests.support.puppet import SCRIPTS, make_puppet
from tests.support.puppet_chats import LONG, TOOLS, ask, streamed, told
from tests.support.stack import Stack, running_stack

pytestmark = pytest.mark.process
JSON = {"type": "json_object"}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
OF_CITIES = {"type": "object", "properties": {"city": {"enum": ["Bern", "Bonn"]}}, "required": ["city"]}
CITIES: Any = TOOLS[0] | {"function": TOOLS[0]["function"] | {"parameters": OF_CITIES}}
SAY: Any = [{"role": "user", "content": "fox"}]


class Pet(pydantic.BaseModel):
    """What a random model is to say."""

    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]
    tags: list[Literal["a", "b"]] = pydantic.Field(max_length=3)


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("puppet")
    with running_stack(tmp, make_puppet(tmp / "model"), engines=1) as it:
        yield it


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("random")
    model = make_model(tmp / "model", vocab=320)
    write_tokenizer(model)
    with running_stack(tmp, model, engines=2) as it:
        yield it


def connect(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=stack.url + "/v1", api_key="any", max_retries=0, timeout=60)


@pytest.fixture
def player(puppet: Stack) -> Iterator[openai.OpenAI]:
    with connect(puppet) as made:
        yield made


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with connect(stack) as made:
        yield made


def test_what_must_be_called_is_called_whatever_the_model_wants(player: openai.OpenAI) -> None:
    """Where a call is required or named there is no text, streamed or not, of long bodies too."""
    for choice, finish in (("required", "tool_calls"), (NAMED, "stop")):
        text = player.chat.completions.create(**ask("text", [CITIES], model="m", tool_choice=choice, max_tokens=50))
        assert not text.choices[0].message.content
        for script in ("call", "thinks"):
            for body in ({}, LONG):
                asked = ask(script, [CITIES], model="m", tool_choice=choice, max_tokens=200) | {"extra_body": body}
                asked["parallel_tool_calls"] = False
                whole = player.chat.completions.create(**asked).choices[0]
                for one in (whole, *streamed(player, asked)):
                    content, reasoning, cities, ended = told(one)
                    assert (content, ended) == ("", finish)
                    assert cities
                    assert {*cities} <= {"Bern", "Bonn"}
                    assert script != "thinks" or reasoning == "The user asks for weather."


def test_one_grammar_spans_reasoning_and_what_follows(player: openai.OpenAI) -> None:
    """A model that reasons first may, and its call or content is held to what was asked."""
    two = player.chat.completions.create(**ask("two", model="m", parallel_tool_calls=False)).choices[0]
    assert told(two) == ("", "", ["Oslo"], "tool_calls")
    said = player.chat.completions.create(**ask("json", None, model="m", response_format=JSON)).choices[0]
    assert said.message.content == SCRIPTS["json"]
    wanted = {"guided_choice": ["yes", "no"]}
    muses = player.chat.completions.create(**ask("muses", None, model="m"), extra_body=wanted).choices[0]
    assert told(muses)[0] in ("yes", "no")
    assert told(muses)[1] == "That one is easy."


def test_what_begins_like_a_call_and_is_none_is_not_written(player: openai.OpenAI) -> None:
    """With ``auto`` text is free until the model itself begins a call, which is then one of a tool that there is."""
    asked = ask("broken", [CITIES], model="m", max_tokens=200)
    message = player.chat.completions.create(**asked).choices[0].message
    assert not (message.content or "").startswith(SCRIPTS["broken"])
    assert {call.function.name for call in message.tool_calls or ()} <= {"get_weather"}
    free = player.chat.completions.create(**ask("broken", None, model="m")).choices[0]
    assert free.message.content == SCRIPTS["broken"]


def test_a_random_model_says_what_a_schema_wants(client: openai.OpenAI) -> None:
    """``.parse`` of a class, several choices at once, streamed, greedy or not, with log-probabilities or without."""
    for how in ({}, {"temperature": 0}, {"logprobs": True, "top_logprobs": 2}, {"frequency_penalty": 1.5}):
        said = client.chat.completions.parse(
            model="m", messages=SAY, response_format=Pet, n=3, max_tokens=200, seed=5, **how
        )
        assert [choice.finish_reason for choice in said.choices] == ["stop"] * 3
        assert all(choice.message.parsed is not None for choice in said.choices)
    with client.chat.completions.stream(model="m", messages=SAY, response_format=Pet, max_tokens=200) as events:
        for _ in events:
            pass
        assert events.get_final_completion().choices[0].message.parsed is not None


def test_what_is_finished_is_valid_whatever_the_schema(client: openai.OpenAI) -> None:
    """Random schemas, four choices of each, many at once, behind a prompt that is computed in chunks; refused are those
    that no answer can be held to."""
    long: Any = [{"role": "user", "content": "fox jumps over the lazy dog " * 40}]

    def choices(schema: Any) -> list[tuple[Any, Any]]:
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
        try:
            said = client.chat.completions.create(
                model="m", messages=long, response_format=wanted, n=4, max_tokens=300, seed=1
            )
        except openai.BadRequestError:  # no answer can be held to it
            return []
        return [(schema, choice) for choice in said.choices]

    with ThreadPoolExecutor(8) as pool:
        found = [one for of in pool.map(choices, map(random_object, range(16))) for one in of]
    finished = [(schema, choice) for schema, choice in found if choice.finish_reason == "stop"]
    assert len(finished) > 8, [choice.finish_reason for _, choice in found]
    for schema, choice in finished:
        jsonschema.Draft202012Validator(schema).validate(json.loads(choice.message.content))


def test_every_token_has_its_log_probability(client: openai.OpenAI) -> None:
    """Those that must come, too, of which several are computed in a step; and the text is the one without."""
    asked: dict[str, Any] = {"model": "m", "messages": SAY, "response_format": Pet, "seed": 11, "max_tokens": 200}
    told = client.chat.completions.parse(**asked, logprobs=True)
    plain = client.chat.completions.parse(**asked)
    assert told.choices[0].message.content == plain.choices[0].message.content
    assert told.choices[0].logprobs is not None
    assert len(told.choices[0].logprobs.content or []) == (told.usage and told.usage.completion_tokens)


@pytest.mark.parametrize(
    ("how", "pattern"),
    [
        ({"structured_outputs": {"regex": r"(cat|dog) \d{2,4}!"}}, r"(cat|dog) [0-9]{2,4}!"),
        ({"structured_outputs": {"choice": ["quick", "brown fox"]}}, "quick|brown fox"),
        ({"structured_outputs": {"grammar": 'start: "the " ("fox" | "dog")'}}, "the (fox|dog)"),
        ({"guided_regex": "[a-f]{8}"}, "[a-f]{8}"),
        ({"guided_choice": ["quick", "brown fox"]}, "quick|brown fox"),
        ({"guided_grammar": 'root ::= "the " ("fox" | "dog")'}, "the (fox|dog)"),
        ({"guided_json": {"enum": [7, 11]}}, "7|11"),
    ],
)
def test_completions_and_chats_are_what_they_must_be(client: openai.OpenAI, how: dict[str, Any], pattern: str) -> None:
    """Of several prompts and choices, each."""
    plain = client.completions.create(model="m", prompt=["fox", "dog"], n=2, max_tokens=40, extra_body=how)
    chats = client.chat.completions.create(model="m", messages=SAY, n=2, max_tokens=40, extra_body=how)
    texts = [choice.text for choice in plain.choices] + [choice.message.content or "" for choice in chats.choices]
    assert len(texts) == 6
    for text in texts:
        assert re.fullmatch(pattern, text), text


def test_an_answer_ends_early_where_the_request_says_so(client: openai.OpenAI) -> None:
    """``max_tokens`` cuts JSON and says ``length``; a stop string cuts it and says ``stop``."""
    asked: dict[str, Any] = {"model": "m", "messages": SAY, "seed": 3}
    schema = {"type": "object", "properties": {"a": {"const": "x" * 50}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    cut = client.chat.completions.create(**asked, response_format=wanted, max_tokens=5).choices[0]
    assert cut.finish_reason == "length"
    assert json.dumps({"a": "x" * 50}).startswith(cut.message.content or "-")
    stopped = client.chat.completions.create(**asked, response_format=wanted, max_tokens=200, stop="xx").choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ('{"a": "', "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_is_none_or_too_expensive_is_answered_400(client: openai.OpenAI, stream: bool) -> None:
    """Of its own request, with the parameter's name; answers beside it go on meanwhile."""
    wrong = {"structured_outputs": {"regex": "(" + "a" * (1 + stream)}}
    dear = {"guided_grammar": "start: X\nX: /(.*a.{18})/ & ~/(.*b.{18})/ & /(.*c.{17})/" + " " * stream}
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        answer = pool.submit(client.chat.completions.create, model="m", messages=SAY, extra_body=dear, stream=stream)
        while not answer.done():
            free = client.chat.completions.create(
                model="m", messages=SAY, max_tokens=3, extra_body={"guided_regex": "[ab]+"}
            )
            assert free.choices[0].finish_reason
        assert time.monotonic() - began > 1
        with pytest.raises(openai.BadRequestError) as refused:
            answer.result()
    assert (refused.value.param, refused.value.code) == ("guided_grammar", "invalid_grammar")
    assert "too much time" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="m", messages=SAY, extra_body=wrong, stream=stream)
    assert refused.value.param == "structured_outputs.regex"


def test_arguments_are_held_to_their_schemas(player: openai.OpenAI) -> None:
    """Those that a script gets wrong come out right, of strict tools and of others."""
    for strict in (True, False):
        tool = CITIES | {"function": CITIES["function"] | {"strict": strict}}
        message = player.chat.completions.create(**ask("says", [tool], model="m")).choices[0].message
        assert (message.content or "").startswith("Let me look that up.")
        assert message.tool_calls is not None
        assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Bern", "Bonn")
