"""Whether a model may reason, as far as a grammar holds it: however a request says that it is not to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.parameters import CHAT, RESPONSES
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults
from quire_services.gateway.readers.request_reader import MESSAGES, RequestReader
from tests.services.gateway.tools.family_templates import HERMES, template
from tests.support.chat_templates import encoder

LIMITS = Limits(16_384, 320, 16_384)
CLOSED = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
SWITCHED = template(HERMES) + CLOSED
EFFORT = SWITCHED + "{{ reasoning_effort or '' }}"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OFF = {"enable_thinking": False}


def asked(api: str) -> dict[str, Any]:
    """A request with a tool that must be called."""
    user: Any = [{"role": "user", "content": "hi"}]
    if api == MESSAGES:
        tools: Any = [{"name": "f", "input_schema": SCHEMA}]
        return {"messages": user, "max_tokens": 9, "tools": tools, "tool_choice": {"type": "any"}}
    function = {"name": "f", "parameters": SCHEMA}
    if api == RESPONSES:
        return {"input": "hi", "tools": [{"type": "function", **function}], "tool_choice": "required"}
    tools = [{"type": "function", "function": function}]
    return {"messages": user, "tools": tools, "tool_choice": "required"}


@pytest.mark.parametrize(
    ("source", "api", "more", "reasons"),
    [
        (SWITCHED, CHAT, {}, True),
        (SWITCHED, CHAT, {"chat_template_kwargs": {"enable_thinking": True}}, True),
        (SWITCHED, CHAT, {"chat_template_kwargs": OFF}, False),
        (template(HERMES), CHAT, {"chat_template_kwargs": OFF}, False),
        (template(HERMES), CHAT, {"chat_template_kwargs": {"thinking": False}}, False),
        (SWITCHED, CHAT, {"reasoning_effort": "none"}, False),
        (EFFORT, CHAT, {"reasoning_effort": "low"}, True),
        (SWITCHED, CHAT, {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, True),
        (template(HERMES) + "<think>\n\n</think>\n\n", CHAT, {}, False),
        (template(HERMES) + "</think>", RESPONSES, {}, False),
        (SWITCHED, RESPONSES, {"reasoning": {"effort": "none"}}, False),
        (SWITCHED, RESPONSES, {"chat_template_kwargs": OFF}, False),
        (EFFORT, RESPONSES, {"reasoning": {"effort": "high"}}, True),
        (SWITCHED, MESSAGES, {"thinking": {"type": "enabled"}}, True),
        (SWITCHED, MESSAGES, {"thinking": {"type": "adaptive"}}, True),
        (SWITCHED, MESSAGES, {"thinking": {"type": "disabled"}}, False),
        (template(HERMES), MESSAGES, {"thinking": {"type": "disabled"}}, False),
    ],
)
def test_a_request_without_thinking_has_a_grammar_without_it(
    tmp_path: Path, source: str, api: str, more: dict[str, Any], reasons: bool
) -> None:
    """By a variable of the template, read or not, by an effort, or because the prompt has closed the reasoning."""
    reader = RequestReader(["m"], encoder(tmp_path, source), SamplingDefaults())
    body = orjson.dumps({"model": "m"} | asked(api) | more)
    read = reader.read(api, body, "t", lambda: LIMITS, lambda *_: b"")
    assert read.constraint is not None
    assert ("</think>" in read.constraint.text) is reasons
