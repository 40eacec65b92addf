"""What a request for a response may not say is refused by name, in the words of this API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import response_create_params

from quire_services.gateway.openai.parameters import PARAMETERS_BY_NAME, Parameter
from quire_services.gateway.openai.parameters_page import page
from quire_services.gateway.openai.response_api.response_body import SHARED, ResponseBody
from quire_services.gateway.openai.response_api.response_parameters import RESPONSE_PARAMETERS
from tests.services.gateway.openai.test_errors import error_of
from tests.support.puppet_responses import TOOL
from tests.support.puppet_stage import Stage

PATH = "/v1/responses"
KEY = {"authorization": "Bearer sk-acme"}
USER = {"role": "user", "content": "play text"}
CALL = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "x"}]}
UNSUPPORTED = "unsupported_parameter"


def body(**changes: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "tiny", "input": "play text", "max_output_tokens": 1} | changes


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"input": None}, "input", None),
        ({"input": []}, "input", None),
        ({"input": 5}, "input", None),
        ({"input": ["hi"]}, "input[0]", None),
        ({"input": [{"role": "alien", "content": "hi"}]}, "input[0].role", None),
        ({"input": [{"role": "user"}]}, "input[0].content", None),
        ({"input": [USER, {"role": "user", "content": [5]}]}, "input[1].content", None),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content",
            "unsupported_content",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content", "unsupported_content"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]", "unsupported_item"),
        ({"input": [{"type": ["message"], "role": "user", "content": "hi"}]}, "input[0]", "unsupported_item"),
        ({"input": [CALL | {"call_id": None}]}, "input[0].call_id", None),
        ({"input": [USER, CALL | {"arguments": "{"}]}, "input[1].arguments", None),
        ({"input": [USER | {"id": 5}]}, "input[0].id", None),
        ({"input": [{"type": "function_call_output", "call_id": "c9", "output": "x"}]}, "input[0].call_id", None),
        ({"input": [CALL, {"type": "function_call_output", "call_id": "c1"}]}, "input[1].output.content", None),
        ({"input": [{"type": "reasoning", "summary": ["x"]}]}, "input[0]", None),
        ({"input": [{"type": "item_reference", "id": "msg_never"}]}, "input", "item_not_found"),
        ({"previous_response_id": "resp_never"}, "previous_response_id", "previous_response_not_found"),
        ({"instructions": ["hi"]}, "instructions", None),
        ({"max_output_tokens": 0}, "max_output_tokens", None),
        ({"max_output_tokens": 20_000}, "input", "context_length_exceeded"),
        ({"temperature": 3}, "temperature", None),
        ({"top_logprobs": 2}, "top_logprobs", None),
        ({"include": ["everything"]}, "include[0]", None),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", None),
        ({"metadata": {"a": 5}}, "metadata.a", None),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", None),
        ({"truncation": "middle"}, "truncation", None),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_tool"),
        ({"tools": [TOOL, {"type": "custom", "name": "f"}]}, "tools[1].type", "unsupported_tool"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", None),
        ({"tools": [TOOL | {"parameters": []}]}, "tools[0].parameters", None),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading", UNSUPPORTED),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "unsupported_tool"),
        ({"reasoning": {"effort": "utmost"}}, "reasoning.effort", None),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "unread_in_template"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", UNSUPPORTED),
        ({"text": {"verbosity": "low"}}, "text.verbosity", UNSUPPORTED),
        ({"background": True}, "background", UNSUPPORTED),
        ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", UNSUPPORTED),
        ({"context_management": [{"type": "compaction"}]}, "context_management", UNSUPPORTED),
        ({"messages": [USER]}, "messages", UNSUPPORTED),
        ({"max_tokens": 5}, "max_tokens", UNSUPPORTED),
        ({"n": 2}, "n", UNSUPPORTED),
        ({"model": "gpt-4"}, "model", "model_not_found"),
        ({"metadata": {"a": "b"}, "tools": [TOOL | {"big": 10**400}]}, None, None),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_a_wrong_request_is_refused(
    stage: Stage, changes: dict[str, Any], param: str | None, code: str | None, long: bool
) -> None:
    """The place that is wrong is named, whoever has read the request."""
    stage[1].requests.clear()
    filler = {"unknown_field": "x" * 20_000} if long else {}
    answer = stage[0].http.post(PATH, json=body(**changes) | filler, headers=KEY)
    status = 404 if code and code.endswith("not_found") else 400
    error = error_of(answer, status)
    assert (error["param"], error["code"]) == (param, code), error
    assert "messages" not in error["message"] or "messages" in changes or code == "unsupported_item"
    assert stage[1].requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"input": [{"type": "message", "role": "user", "content": "play text", "status": "in_progress"}]},
        {"input": [USER, {"role": "assistant", "content": "Hm."}, {"role": "assistant", "content": "Yes?"}, USER]},
        {"input": [USER, {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]},
        {"input": [USER, CALL, OUTPUT]},
        {"input": [USER, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}]},
        {"reasoning": {"summary": "auto"}, "text": {"verbosity": "medium", "format": {"type": "text"}}},
        {"background": False, "service_tier": "flex", "max_tool_calls": 3, "include": ["file_search_call.results"]},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"seed": 5, "top_k": 3, "stop": ["x"], "chat_template_kwargs": {}, "cache_salt": "salt"},
        {"max_output_tokens": -1, "store": None, "tools": None, "metadata": None, "unknown": {"a": 1}},
        {"tools": [TOOL | {"allowed_callers": ["direct"], "async": False}], "tool_choice": "auto"},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_clients_send_is_taken(stage: Stage, changes: dict[str, Any]) -> None:
    """Items in their short and long forms, values that change nothing, fields that servers may not know."""
    raw = json.dumps(body(**changes))
    answer = stage[0].http.post(PATH, content=raw, headers=KEY | {"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_the_table_is_that_of_the_client_and_of_the_body() -> None:
    """Every parameter of the openai package is in it; what is served is a field here or one of chats."""
    known = response_create_params.ResponseCreateParamsStreaming.__annotations__
    assert set(known) == {row.name for row in RESPONSE_PARAMETERS if row.openai}
    served = {row.name for row in RESPONSE_PARAMETERS if row.served}
    assert served == {*ResponseBody.model_fields, *SHARED}
    assert all(PARAMETERS_BY_NAME[name].served for name in SHARED)
    assert len({row.name for row in RESPONSE_PARAMETERS}) == len(RESPONSE_PARAMETERS)


@pytest.mark.parametrize("row", [row for row in RESPONSE_PARAMETERS if not row.served], ids=lambda row: row.name)
def test_what_is_not_served_is_harmless_or_refused_with_its_sentence(stage: Stage, row: Parameter) -> None:
    """Null and neutral values pass; the sentence is the parameter's own and on the page."""
    stage[1].load(ready=True)
    for value in (None, *row.neutral):
        assert stage[0].http.post(PATH, json=body(**{row.name: value}), headers=KEY).status_code == 200
    answer = stage[0].http.post(PATH, json=body(**{row.name: ["odd"]}), headers=KEY)
    if row.harmless:
        assert answer.status_code == 200
        return
    error = error_of(answer, 400)
    assert (error["param"], error["code"]) == (row.name, UNSUPPORTED)
    assert f'"{error["message"]}" |' in page()
    assert len(error["message"]) > len(f"{row.name!r} is not served: ") + 10


def test_other_paths_are_answered_with_an_error(stage: Stage) -> None:
    """Cancelling, compacting, a stream of what is whole."""
    http = stage[0].http
    kept = http.post(PATH, json=body(), headers=KEY).json()["id"]
    assert error_of(http.post(f"{PATH}/{kept}/cancel", json={}, headers=KEY), 400)["message"].startswith("only")
    assert error_of(http.post(f"{PATH}/resp_never/cancel", json={}, headers=KEY), 404)["code"] == "response_not_found"
    assert error_of(http.get(f"{PATH}/{kept}?stream=true", headers=KEY), 400)["param"] == "stream"
    assert error_of(http.post(f"{PATH}/compact", json={}, headers=KEY), 404)["code"] == "unsupported_api"
    assert error_of(http.get(f"{PATH}/{kept}/input_items?limit=0", headers=KEY), 400)["param"] == "limit"
    assert error_of(http.get(f"{PATH}/{kept}/input_items?after=x", headers=KEY), 400)["param"] == "after"
    assert error_of(http.get(f"{PATH}/{kept}"), 401)["code"] == "invalid_api_key"
