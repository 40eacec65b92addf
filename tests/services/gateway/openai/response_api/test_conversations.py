"""Conversations: items of all kinds, responses that go on from others, and what is kept of them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from quire_proto.wire.u32 import unpack_u32
from tests.services.gateway.openai.response_api.conftest import client_of
from tests.support.gateway import GatewayProcess, Start
from tests.support.puppet import SCRIPTS
from tests.support.puppet_responses import LONG_BODY, TOOL, request_of, said
from tests.support.puppet_stage import Stage, player
from tests.support.waits import wait_for

OUTPUT = "It rains in Berlin."


def prompts(stage: Stage) -> list[list[int]]:
    """The prompts that the engine has got, as tokens."""
    return [list(unpack_u32(request.tokens)) for request in stage[1].requests]


def answers(response: Any) -> list[dict[str, Any]]:
    """Outputs for all calls of a response."""
    calls = [item for item in response.output if item.type == "function_call"]
    return [{"type": "function_call_output", "call_id": call.call_id, "output": OUTPUT} for call in calls]


@pytest.mark.parametrize("script", ["call", "two", "says", "thinks"])
@pytest.mark.parametrize("body", [{}, LONG_BODY], ids=["short", "long"])
def test_a_conversation_goes_on_in_three_ways(
    stage: Stage, client: openai.OpenAI, script: str, body: dict[str, Any]
) -> None:
    """By the name of the response, by its items, and by references to them: the prompt is the same to the token."""
    asked = request_of(script, **body)
    first = client.responses.create(**asked)
    user = {"role": "user", "content": asked["input"]}
    back = [item.model_dump(exclude_unset=True) for item in first.output]
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    stage[1].requests.clear()
    named = client.responses.create(**asked | {"previous_response_id": first.id, "input": answers(first)})
    for items in (back, references, [{"id": one["id"]} for one in references]):
        sent = client.responses.create(**asked | {"input": [user, *items, *answers(first)], "store": False})
        assert said(sent)[0] == SCRIPTS["final"]
    assert said(named)[0] == SCRIPTS["final"]
    assert named.previous_response_id == first.id
    assert all(prompt == prompts(stage)[0] for prompt in prompts(stage))


def test_a_chat_of_several_turns(stage: Stage, client: openai.OpenAI) -> None:
    """Each goes on from the one before it; two may go on from one. Instructions are not taken over."""
    first = client.responses.create(**request_of("text", instructions="One."))
    second = client.responses.create(**request_of("muses", previous_response_id=first.id))
    client.responses.create(**request_of("final", previous_response_id=second.id, instructions="Two."))
    client.responses.create(**request_of("final", previous_response_id=first.id))
    texts = [stage[0].tokenizer().decode(prompt, skip_special_tokens=False) for prompt in prompts(stage)]
    assert ["One." in text for text in texts] == [True, False, False, False]
    assert "Two." in texts[2]
    parts = ("play text", SCRIPTS["text"], "play muses", "It is Madrid")
    turns = [[part for part in parts if part in text] for text in texts]
    assert [len(found) for found in turns] == [1, 3, 4, 2]
    assert "That one is easy." in texts[2]  # reasoning goes on, too


def test_reasoning_comes_back_sealed(stage: Stage, client: openai.OpenAI) -> None:
    """As clients that keep their conversations send it; a seal of another server is refused."""
    asked = request_of("thinks", include=["reasoning.encrypted_content"], store=False)
    first = client.responses.create(**asked)
    reasoning, call = first.output
    assert reasoning.encrypted_content
    stage[1].requests.clear()
    tail = [call.model_dump(exclude_unset=True), *answers(first)]
    ask = [{"role": "user", "content": "play thinks"}]
    whole = reasoning.model_dump(exclude_unset=True)
    bare = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": reasoning.encrypted_content}
    for one in (whole, bare):
        client.responses.create(**asked | {"input": [*ask, one, *tail]})
    assert prompts(stage)[0] == prompts(stage)[1]
    with pytest.raises(openai.BadRequestError, match="not made here") as refused:
        client.responses.create(**asked | {"input": [*ask, bare | {"encrypted_content": "gAAAA"}, *tail]})
    assert refused.value.param == "input[1].encrypted_content"


def test_a_response_is_kept_as_it_was(client: openai.OpenAI) -> None:
    """Retrieved, its input listed in pages, and deleted."""
    first = client.responses.create(**request_of("call", metadata={"a": "b"}))
    assert client.responses.retrieve(first.id) == first
    second = client.responses.create(**request_of("final", previous_response_id=first.id) | {"input": answers(first)})
    items = list(client.responses.input_items.list(second.id, limit=2, order="asc"))
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]
    assert (items[0].content[0].text, items[1].id, items[2].output) == ("play call", first.output[0].id, OUTPUT)
    backwards = client.responses.input_items.list(second.id, limit=2)
    assert [item.id for item in backwards.data] == [items[2].id, items[1].id]
    assert backwards.has_more
    client.responses.delete(first.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError) as missing:
            gone(first.id)
        assert missing.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError, match=f"{first.id}.*goes on from") as missing:
        client.responses.create(**request_of("text", previous_response_id=second.id))
    assert (missing.value.code, missing.value.param) == ("previous_response_not_found", "previous_response_id")
    assert client.responses.retrieve(second.id).output_text == SCRIPTS["final"]


def test_what_is_not_to_be_kept_is_not(client: openai.OpenAI) -> None:
    """``store: false``, and the response says so."""
    first = client.responses.create(**request_of("text", store=False))
    assert first.model_extra == {"store": False}
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**request_of("text", previous_response_id=first.id))


def test_a_stream_is_kept_before_it_ends(client: openai.OpenAI) -> None:
    """Its last event names a response that can be gone on from."""
    events = client.responses.create(**request_of("call"), stream=True)
    last = next(event for event in events if event.type == "response.completed")
    assert client.responses.retrieve(last.response.id) == last.response


def test_what_was_hung_up_on_is_not_kept(stage: Stage, client: openai.OpenAI) -> None:
    """Neither while it is under way nor later."""
    stage[1].steps, stage[1].aborts = 3, []
    try:
        with client.responses.create(**request_of("text"), stream=True) as stream:
            begun = next(iter(stream))
        wait_for(lambda: stage[1].aborts, "the end")
    finally:
        stage[1].steps = None
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(begun.response.id)


def test_a_tenant_knows_its_own_responses_only(client: openai.OpenAI, other: openai.OpenAI) -> None:
    """Another's is answered as one that never was, by whatever way it is asked for."""
    mine = client.responses.create(**request_of("call"))
    told = []
    for identity in (mine.id, "resp_never"):
        with pytest.raises(openai.NotFoundError) as missing:
            other.responses.retrieve(identity)
        told.append(missing.value.message.replace(identity, "ID"))
        with pytest.raises(openai.NotFoundError):
            other.responses.create(**request_of("text", previous_response_id=identity))
        with pytest.raises(openai.NotFoundError):
            other.responses.delete(identity)
    assert told[0] == told[1]
    reference = [{"type": "item_reference", "id": mine.output[0].id}]
    with pytest.raises(openai.NotFoundError) as missing:
        other.responses.create(**request_of("text") | {"input": reference})
    assert missing.value.code == "item_not_found"
    assert client.responses.retrieve(mine.id) == mine


def test_a_long_conversation_goes_on_from_a_short_request(stage: Stage, client: openai.OpenAI) -> None:
    """What is kept may be longer than what is read at once, in one lane of readers and in the next."""
    first = client.responses.create(**request_of("text") | {"input": "x" * 14_000 + " play text"})
    stage[1].requests.clear()
    second = client.responses.create(**request_of("final", previous_response_id=first.id, max_output_tokens=64))
    assert said(second)[0] == SCRIPTS["final"]
    third = client.responses.create(
        **request_of("muses", previous_response_id=second.id, max_output_tokens=64, truncation="auto", **LONG_BODY)
    )
    assert said(third)[0] == "It is Madrid, of course."


def test_the_tokens_of_an_input_are_counted(stage: Stage, client: openai.OpenAI) -> None:
    """As they would be used, those of the conversation before it included, even if they are too many."""
    first = client.responses.create(**request_of("call"))
    asked = {"model": "tiny", "previous_response_id": first.id, "input": answers(first), "tools": [TOOL]}
    counted = client.responses.input_tokens.count(**asked)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == client.responses.create(**asked).usage.input_tokens
    assert client.responses.input_tokens.count(input="x" * 20_000).input_tokens > 20_000
    requests = len(stage[1].requests)
    assert requests == 2


def test_the_oldest_turns_are_left_out_where_that_is_asked_for(stage: Stage, client: openai.OpenAI) -> None:
    """``truncation: auto``: the last turns that fit stay, behind the instructions; without it they are refused."""
    turns = [{"role": role, "content": f"turn {n} " + "x" * 900} for n in range(20) for role in ("user", "assistant")]
    asked = request_of("text", instructions="Be brief.", max_output_tokens=64)
    asked |= {"input": [*turns, {"role": "user", "content": "play text"}]}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**asked)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")
    found = client.responses.create(**asked, truncation="auto")
    assert said(found)[0] == SCRIPTS["text"]
    text = stage[0].tokenizer().decode(prompts(stage)[-1], skip_special_tokens=False)
    left = [n for n in range(20) if f"turn {n} " in text]
    assert left == list(range(left[0], 20))
    assert "Be brief." in text
    assert 16_384 - 2_000 < len(prompts(stage)[-1]) + 64 <= 16_384  # one more turn would be too many


def test_a_gateway_that_starts_again_knows_no_responses(start: Start, stage: Stage, puppet: Any) -> None:
    """Neither does one that is to keep none, which says so where it is asked to."""
    kept = client_of(stage[0], "sk-acme").responses.create(**request_of("text"))
    process = GatewayProcess(puppet[0], "--stored-responses", "0").wait()
    try:
        player(process, puppet[1])
        with client_of(process, "any") as client:
            with pytest.raises(openai.NotFoundError, match="not kept here") as missing:
                client.responses.create(**request_of("text", previous_response_id=kept.id))
            assert missing.value.code == "previous_response_not_found"
            answered = client.responses.create(**request_of("text"))
            assert answered.model_extra == {"store": False}
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(answered.id)
            with pytest.raises(openai.BadRequestError, match="store"):
                client.responses.create(**request_of("text", store=True))
    finally:
        process.stop()


def test_parsed_arguments_and_text(client: openai.OpenAI) -> None:
    """``responses.parse`` reads what the model has written."""
    strict = TOOL | {"strict": True}
    parsed = client.responses.parse(**request_of("call", tools=[strict]))
    assert parsed.output[0].parsed_arguments == {"city": "Berlin"}
    assert json.loads(parsed.output[0].arguments) == {"city": "Berlin"}
