"""What is wrong with a conversation is told by its place in the body that the client has sent, whatever it became."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from quire_services.gateway.anthropic.api_errors import error_body
from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.parameters import CHAT, RESPONSES
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults
from quire_services.gateway.readers.request_reader import MESSAGES, RequestReader
from tests.support.chat_templates import JSON, KINDS, calls, each, encoder

LIMITS = Limits(4096, 320, 4096)
NOT_THE_SECOND = calls(each("{% if t.id != 'two' %}" + JSON + "{% endif %}"), "'tool_calls' in m")
NO_ANSWERS = KINDS["object arguments"].replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")


def refusal(folder: Path, api: str, body: dict[str, Any], template: str) -> str:
    """How a reader refuses a body, in the words of its API."""
    reader = RequestReader(["m"], encoder(folder, template), SamplingDefaults())
    with pytest.raises(ApiError) as refused:
        reader.read(api, orjson.dumps({"model": "m"} | body), "t", lambda: LIMITS, lambda *_: b"")
    assert refused.value.status == 400
    return str(error_body(refused.value, "")["error"]["message"]) if api == MESSAGES else refused.value.message


def message_turns(name: str = "f") -> dict[str, Any]:
    """A conversation behind a system prompt: the fourth turn goes on with the third, and its second block calls."""
    call = {"type": "tool_use", "id": "one", "name": "f", "input": {}}
    answers = [{"type": "tool_result", "tool_use_id": of, "content": "x"} for of in ("one", "two")]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}, call]},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}, call | {"id": "two", "name": name}]},
        {"role": "user", "content": [*answers, {"type": "text", "text": "e"}]},
    ]
    return {"max_tokens": 5, "system": "s", "messages": turns}


def response_items() -> dict[str, Any]:
    """The same as items of a response."""
    calls = [{"type": "function_call", "call_id": of, "name": "f", "arguments": "{}"} for of in ("one", "two")]
    answers = [{"type": "function_call_output", "call_id": of, "output": "x"} for of in ("one", "two")]
    return {"instructions": "s", "input": [{"role": "user", "content": "a"}, *calls, *answers]}


def chat_messages() -> dict[str, Any]:
    """And as a chat."""
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = [call | {"id": of} for of in ("one", "two")]
    answers = [{"role": "tool", "tool_call_id": of, "content": "x"} for of in ("one", "two")]
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": calls}, *answers]}


@pytest.mark.parametrize(
    ("api", "body", "call", "answer"),
    [
        (MESSAGES, message_turns(), "messages[3].content[1]", "messages[4].content[0]"),
        (RESPONSES, response_items(), "input[2]", "input[3]"),
        (CHAT, chat_messages(), "messages[1].tool_calls[1]", "messages[2]"),
    ],
)
def test_what_a_template_leaves_out_is_named_by_its_place(
    tmp_path: Path, api: str, body: dict[str, Any], call: str, answer: str
) -> None:
    """A call that is the second of its message, an answer."""
    assert f"leaves out {call}: " in refusal(tmp_path, api, body, NOT_THE_SECOND)
    assert f"leaves out {answer}: " in refusal(tmp_path, api, body, NO_ANSWERS)


def test_a_call_without_a_name_is_found_behind_a_system_prompt(tmp_path: Path) -> None:
    """The sentence alone says where, for an error of this API has nothing else."""
    told = refusal(tmp_path, MESSAGES, message_turns(name=""), KINDS["any"])
    assert told == "messages[3].content[1]: a tool call needs a function with a name"


def test_a_place_in_a_clients_own_words_is_left_as_it_is(tmp_path: Path) -> None:
    """Here the name of a tool."""
    choice: Any = {"type": "tool", "name": "messages[99].tool_calls[3]"}
    body = message_turns() | {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": choice}
    assert "no tool named 'messages[99].tool_calls[3]'" in refusal(tmp_path, MESSAGES, body, KINDS["any"])
