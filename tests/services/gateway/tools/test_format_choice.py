"""The format a model writes is found out from its files, and none is taken that does not fit."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from quire_services.gateway.templates.chat_template import PromptEncoder
from quire_services.gateway.tools.format_choice import UnknownFormat, chosen_format, without_calls
from quire_services.gateway.tools.formats.families import ALIASES, FAMILIES
from quire_services.gateway.tools.formats.response_template import DECLARED, declared_format
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from tests.services.gateway.tools.family_templates import FAMILY_TEMPLATES, HERMES, each, renderer, template
from tests.services.gateway.tools.samples import CALLED, TOOLS, summary
from tests.support.chat_templates import KINDS, WITHOUT
from tests.support.repository import ROOT

CASES = [(family, *case) for family, cases in FAMILY_TEMPLATES.items() for case in cases]


def choice(source: str, *spelled: str, declared: Any = None, name: str | None = None) -> Any:
    return chosen_format(renderer(source), (jinja2.TemplateError, TypeError), spelled, declared, name)


@pytest.mark.parametrize(("family", "source", "begins"), CASES)
def test_the_format_of_a_template(family: str, source: str, begins: str) -> None:
    found = choice(source)
    assert found is not None
    assert (found.name, found.forms[0].trigger) == (family, begins)


@pytest.mark.parametrize("source", [*KINDS.values(), *WITHOUT.values()])
def test_no_format_for_templates_that_write_none(source: str) -> None:
    assert choice(source) is None


@pytest.mark.parametrize(
    "body",
    [
        "<call>{{ f.name }}: {{ f.arguments | tojson }}</call>",
        '<tool>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}</tool>',
        '<tool_call>{"name": "{{ f.name }}"}</tool_call>',
        '<tool_call>{"name": "{{ f.name }}", "arguments": {}}</tool_call>',
    ],
)
def test_no_format_that_gives_back_another_call(body: str) -> None:
    assert choice(template(each(body))) is None


def test_a_template_of_the_gateway(tmp_path: Any) -> None:
    """Through the gateway's own rendering, which shapes calls as templates want them."""
    from quire_services.gateway.http.errors import ApiError
    from tests.support.chat_templates import encoder

    for family, source, begins in CASES:
        folder = tmp_path / f"{family}{len(source)}"
        folder.mkdir()
        made: PromptEncoder = encoder(folder, source)
        found = chosen_format(made.render, (ApiError,))
        assert found is not None, family
        assert (found.name, found.forms[0].trigger) == (family, begins)


def test_marks_in_the_vocabulary() -> None:
    """A template that writes calls in its own way, and a vocabulary made for a known one."""
    plain = template(each("[call {{ f.name }} {{ f.arguments | tojson }}]"))
    assert choice(plain) is None
    assert choice(plain, "<tool_call>\n", "\n</tool_call>").name == "hermes"
    assert choice(plain, "<tool_call>", "</tool_call>", "<arg_key></arg_key><arg_value></arg_value>").name == "glm45"
    assert choice(plain, "<tool_call>") is None
    assert choice(plain, "<|python_tag|>") is None


def test_what_a_template_writes_goes_before_its_vocabulary() -> None:
    assert choice(template(HERMES), "[TOOL_CALLS]", "[ARGS]").name == "hermes"


def test_marks_of_reasoning() -> None:
    assert choice(template(HERMES), "[THINK]", "[/THINK]").reasoning.open == "[THINK]"
    assert choice(template(HERMES)).reasoning == FAMILIES["hermes"].reasoning


def test_a_named_format_is_taken_as_it_is() -> None:
    """Which of its forms is written is found out all the same."""
    plain = template(each("[call {{ f.name }} {{ f.arguments | tojson }}]"))
    assert choice(plain, name="hermes").name == "hermes"
    assert choice(template(HERMES), name="qwen3_xml").name == "qwen3_coder"
    for source, begins in FAMILY_TEMPLATES["mistral"]:
        assert choice(source, name="mistral").forms[0].trigger == begins
    with pytest.raises(UnknownFormat, match="'mine' is none of deepseek, "):
        choice(plain, name="mine")


def test_a_model_without_calls_may_reason() -> None:
    parser = AnswerParser(without_calls(["<think>", "</think>"]))
    assert summary(parser.feed("<think>\nHm.</think>\n\n<tool_call>") + parser.finish()) == ["~Hm.", "<tool_call>"]
    assert without_calls([]).regions == ()


def _declared(**fields: Any) -> dict[str, Any]:
    return {"start_anchor": "<|im_start|>assistant\n", "fields": {"content": {"content": "text"}, **fields}}


ONE = {"type": "function", "function": "{content}"}
BY_NAME = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
BY_KEYS = {"type": "function", "function": {"name": "{content.tool}", "arguments": "{content.args}"}}
OF_EACH = {"type": "function", "function": {"name": "{tool}", "arguments": "{args}"}}
ARGUMENTS = '{"city": "Rome", "days": 2}'
DECLARATIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"open": "<call>", "close": "</call>", "repeats": True, "content": "json", "transform": ONE},
        f'<call>{{"name": "weather", "arguments": {ARGUMENTS}}}</call>',
    ),
    (
        {"open": "<do>", "close": "</do>", "content": "json", "transform": BY_KEYS},
        f'<do>{{"tool": "weather", "args": {ARGUMENTS}}}</do>',
    ),
    (
        {"open": "<all>", "close": "</all>", "content": "json", "transform_each": True, "transform": OF_EACH},
        f'<all>[\n    {{"tool": "weather", "args": {ARGUMENTS}}}\n]</all>',
    ),
    (
        {"open_pattern": r"<run>\s*fn:(?P<name>\w+)\|", "close": "</run>", "content": "json", "transform": BY_NAME},
        f"<run>\nfn:weather|{ARGUMENTS}</run>",
    ),
    (
        {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>\w+)>",
            "close": "</tool_call>",
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>\w+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": BY_NAME,
        },
        "<tool_call><function=weather><parameter=city>Rome</parameter><parameter=days>2</parameter></tool_call>",
    ),
]


@pytest.mark.parametrize(("calls", "text"), DECLARATIONS)
def test_a_declared_format_reads_what_it_declares(calls: dict[str, Any], text: str) -> None:
    thinking = {"open": "<think>", "close": "</think>", "content": "text"}
    declared = _declared(tool_calls=calls, thinking=thinking)
    found = choice(template(HERMES), declared=declared)
    assert found.name == DECLARED
    parser = AnswerParser(found, TOOLS)
    assert summary(parser.feed(f"<think>Hm.</think>Now. {text}") + parser.finish()) == ["~Hm.", "Now.", CALLED]


@pytest.mark.parametrize(("calls", "text"), DECLARATIONS)
def test_a_declared_format_is_what_transformers_reads(calls: dict[str, Any], text: str) -> None:
    from transformers.utils.chat_parsing import parse_response

    message = parse_response(text, _declared(tool_calls=calls), prefix="", tools=TOOLS)
    made = message["tool_calls"] if isinstance(message["tool_calls"], list) else [message["tool_calls"]]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in made] == [CALLED]


@pytest.mark.parametrize(
    "calls",
    [
        {"open": "<c>", "close": "</c>", "content": "json", "content_args": {"unquoted_keys": True}, "transform": ONE},
        {"open_pattern": r"<c>(?P<name>\w+).*?<m>", "close": "</c>", "content": "json", "transform": BY_NAME},
        {"open": "<c>", "close": "</c>", "content": "kv-lines", "transform": ONE},
        {"open": "<c>", "close": "</c>", "content": "json"},
        "calls",
    ],
)
def test_what_formats_cannot_say_is_not_taken(calls: Any) -> None:
    assert declared_format(_declared(tool_calls=calls)) is None
    assert choice(template(HERMES), declared=_declared(tool_calls=calls)).name == "hermes"


def test_the_page_for_operators_names_every_format() -> None:
    """And every other name that one has."""
    page = (ROOT / "docs" / "operate" / "prompts.md").read_text()
    assert not [name for name in (*FAMILIES, *ALIASES, DECLARED) if f"`{name}`" not in page]
