"""Message requests as chats: what the model is given, and what is refused by its name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from anthropic.types.beta import message_create_params

from quire_services.gateway.anthropic.bodies import MessageChat, MessagesBody
from quire_services.gateway.anthropic.chat_request import chat_request
from quire_services.gateway.anthropic.parameters import ACCEPTED, REFUSED
from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.json_body import validated
from tests.support.repository import ROOT

USER: dict[str, Any] = {"role": "user", "content": "hi"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}


class Templates:
    """An encoder whose template reads these variables."""

    def __init__(self, *variables: str) -> None:
        self._variables = variables

    def reads(self, variable: str) -> bool:
        return variable in self._variables


def chat(*variables: str, **fields: Any) -> MessageChat:
    """The chat of a request."""
    body = validated(MessagesBody, {"model": "m", "max_tokens": 5, "messages": [USER]} | fields)
    return chat_request(body, Templates(*variables)).chat  # type: ignore[arg-type]


def messages(*turns: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """The messages of the chat."""
    return [message.model_dump(exclude_unset=True) for message in chat(messages=list(turns), **fields).messages]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}


def result(*content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1"} | ({"content": content[0]} if content else {}) | more


@pytest.mark.parametrize("system", ["Be brief.\nAnd kind.", [text("Be brief."), text("And kind.")]])
def test_the_system_prompt_is_the_first_message(system: Any) -> None:
    """As a string or as blocks, which stand on lines of their own."""
    assert messages(USER, system=system) == [{"role": "system", "content": "Be brief.\nAnd kind."}, USER]


@pytest.mark.parametrize("system", ["", [], None])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert messages(USER, system=system) == [USER]


@pytest.mark.parametrize("apart", [True, False])
def test_a_line_for_accounts_is_no_part_of_the_prompt(apart: bool) -> None:
    """It is another in every request: no prompt would share the one before it."""
    line = "x-anthropic-billing-header: cc_version=2.1.177; cch=36ee5;"
    system = [text(line), text("Be brief.")] if apart else line + "\nBe brief."
    assert messages(USER, system=system)[0]["content"] == "Be brief."
    assert messages(USER, system=[text("Be brief."), text(line)])[0]["content"].endswith(line)


def test_turns_of_a_role_are_one_turn() -> None:
    """As the API has it: some templates take no others."""
    turns = [USER, {"role": "user", "content": [text("you"), text("there")]}]
    assert messages(*turns) == [{"role": "user", "content": "hi\nyou\nthere"}]


def test_what_an_assistant_said_and_did_is_one_message() -> None:
    """Text, reasoning and calls; reasoning that only another service can read is left out."""
    said = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "xyz"},
        text("Well."),
        CALL,
    ]
    call = {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert messages(USER, {"role": "assistant", "content": said}, USER)[1] == {
        "role": "assistant", "content": "Well.", "reasoning_content": "Hm.", "tool_calls": [call],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "content"),
    [
        (result("21"), "21"),
        (result([text("21"), text("degrees")]), "21\ndegrees"),
        (result("no such city", is_error=True), "Error: no such city"),
        (result("fine", is_error=False), "fine"),
        (result(), ""),
    ],
)
def test_what_a_tool_says_is_a_message_of_its_own(said: dict[str, Any], content: str) -> None:
    """Before what the user says beside it; that it has failed is said to the model."""
    answer = {"role": "tool", "tool_call_id": "toolu_1", "content": content}
    asked = messages(USER, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [said, text("go on")]})
    assert asked[2:] == [answer, {"role": "user", "content": "go on"}]


def test_tools_are_functions() -> None:
    """With their keys in the order in which clients of chats send them."""
    tool = {"input_schema": {"type": "object"}, "description": "does", "name": "f", "strict": True, "type": "custom"}
    (made,) = chat(tools=[tool | {"cache_control": {"type": "ephemeral"}}]).tools or ()
    function = {"name": "f", "description": "does", "parameters": {"type": "object"}, "strict": True}
    assert made == {"type": "function", "function": function}
    assert list(made["function"]) == list(function)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
@pytest.mark.parametrize("parallel", [None, True, False])
def test_which_tools_are_called_is_said_as_chats_say_it(choice: Any, expected: Any, parallel: bool | None) -> None:
    made = chat(tools=[TOOL], tool_choice=choice | {"disable_parallel_tool_use": parallel})
    assert (made.tool_choice, made.parallel_tool_calls) == (expected, False if parallel else None)


def test_whether_the_model_reasons_is_a_variable_of_its_template() -> None:
    """Where that reads it; else the model does as it is made to."""
    enabled, disabled = {"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}
    assert chat("enable_thinking", thinking=enabled).chat_template_kwargs == {"enable_thinking": True}
    assert chat("enable_thinking", thinking=disabled).chat_template_kwargs == {"enable_thinking": False}
    assert chat("enable_thinking", thinking={"type": "adaptive"}).chat_template_kwargs is None
    assert chat(thinking=enabled).chat_template_kwargs is None
    assert chat(output_config={"effort": "low"}).reasoning_effort == "low"


def test_the_form_of_an_answer_is_that_of_a_chat() -> None:
    schema = {"type": "object"}
    made = chat(output_config={"format": {"type": "json_schema", "schema": schema}})
    given = made.model_dump()["response_format"]
    assert (given["type"], given["json_schema"]["schema"], given["json_schema"]["strict"]) == (
        "json_schema",
        schema,
        True,
    )


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "'document'"),
        ({"messages": [{"role": "user", "content": [CALL]}]}, "'tool_use'"),
        ({"messages": [{"role": "user", "content": [result([{"type": "image"}])]}]}, "[0].content[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
        ({"messages": [{"role": "user", "content": [result(5)]}]}, "[0].content[0].content"),
        ({"messages": [{"role": "user", "content": [result(["x"])]}]}, "[0].content[0].content[0]"),
        ({"messages": [{"role": "user", "content": [result("x", is_error=1)]}]}, "is_error"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "unreadable"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL]}]}, "'tool_result'"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL | {"input": "x"}]}, USER]}, "input"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL | {"name": None}]}, USER]}, "name"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "thinking"}]}, USER]}, "thinking"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "server_tool_use"}]}, USER]},
            "server_tool_use",
        ),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop_sequences": ["x" * 1025]}, "stop_sequences[0]"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_k": 0.5}, "top_k"),
        ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "web_search_20260318"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL, {"input_schema": {}}]}, "tools[1].name"),
        ({"tools": [TOOL | {"description": 5}]}, "tools[0].description"),
        ({"tools": [TOOL | {"strict": 1}]}, "tools[0].strict"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL | {"input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [TOOL | {"allowed_callers": ["code_execution_20260521"]}]}, "tools[0].allowed_callers"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "all"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "regex"}}}, "output_config.format.type"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
        *(({name: {"x": 1}}, name) for name in sorted(REFUSED)),
        ({"seed": 5}, "'seed' is a parameter of"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
    ],
    ids=lambda value: str(value)[:70] if isinstance(value, dict) else None,
)
def test_what_is_not_served_is_refused_by_name(fields: dict[str, Any], names: str) -> None:
    """Once, with a sentence that says which field it is."""
    with pytest.raises(ApiError) as refused:
        chat(**fields)
    assert refused.value.status == 400
    assert names in refused.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"service_tier": "auto", "speed": "fast", "inference_geo": "eu", "diagnostics": {"previous_message_id": None}},
        {"metadata": {"user_id": "u"}, "cache_control": {"type": "ephemeral"}, "something_new": 1},
        {"container": None, "mcp_servers": [], "top_k": None, "stop_sequences": None, "seed": None},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"tools": [TOOL | {"defer_loading": False, "allowed_callers": ["direct"], "eager_input_streaming": True}]},
    ],
)
def test_what_changes_nothing_is_accepted(fields: dict[str, Any]) -> None:
    """And so is what nobody has heard of yet."""
    assert chat(**fields).max_tokens == 5


def test_every_parameter_of_the_api_is_known_and_on_the_page() -> None:
    """Of the beta as well: a field of the body, accepted without effect, or refused."""
    headers = {"betas", "workspace_id"}
    asked = set(inspect.get_annotations(message_create_params.MessageCreateParamsBase)) - headers
    assert asked - set(MessagesBody.model_fields) - ACCEPTED - set(REFUSED) == set()
    page = (ROOT / "docs/operate/messages.md").read_text()
    assert [name for name in sorted({*MessagesBody.model_fields, *ACCEPTED, *REFUSED}) if f"`{name}`" not in page] == []
