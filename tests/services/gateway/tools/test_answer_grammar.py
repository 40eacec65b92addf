"""Grammars: what they let a model write is read back as calls that fit the tools, and what fits is let through."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest

from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.formats.tool_format import Region, ToolFormat
from quire_services.gateway.tools.grammar.answer_grammar import answer_grammar
from quire_services.gateway.tools.grammar.content_format import ContentFormat
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from quire_services.gateway.tools.parser.events import AnswerEvent
from tests.services.gateway.tools.samples import TOOLS, WELL_FORMED, summary
from tests.services.gateway.tools.toy_vocabulary import EOS, ToyVocabulary

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "$defs": {"unit": {"enum": ["C", "F"]}},
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "more": {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
            "required": ["ok"],
        },
        "unit": {"$ref": "#/$defs/unit"},
        "hot": {"type": "boolean"},
        "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]},
    },
    "required": ["city", "unit"],
}
FUNCTIONS: list[dict[str, Any]] = [
    {"name": "weather", "parameters": PARAMETERS},
    {"name": "weather_now", "parameters": {"type": "object", "properties": {}}},
    {"name": "now"},
]
GIVEN = [{"type": "function", "function": function} for function in FUNCTIONS]
SCHEMAS = {function["name"]: function.get("parameters", {}) for function in FUNCTIONS}
NAMED = {"type": "function", "function": {"name": "weather"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}, NAMED]},
}
SPECIALS = {
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
    "deepseek": tuple(f"<｜tool▁{word}｜>" for word in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")),
    "harmony": tuple(f"<|{word}|>" for word in ("channel", "message", "constrain", "end", "return", "call", "start")),
    "llama3_json": ("<|python_tag|>",),
    "kimi_k2": tuple(
        f"<|tool_call{word}|>" for word in ("s_section_begin", "s_section_end", "_begin", "_argument_begin", "_end")
    ),
    "lfm2": ("<|tool_call_start|>", "<|tool_call_end|>"),
    "glm45": ("<tool_call>", "</tool_call>", "<think>", "</think>"),
}
FORMATS = [
    pytest.param(family.preferring(form), id=f"{family.name}-{place}")
    for family in FAMILIES.values()
    for place, form in enumerate(family.forms)
    if not form.remembered
]


def vocabulary(written: ToolFormat, special: bool = True) -> ToyVocabulary:
    return ToyVocabulary(SPECIALS.get(written.name, ()) if special else ())


def events_of(written: ToolFormat, toy: ToyVocabulary, tokens: list[int], opened: Region | None) -> list[AnswerEvent]:
    """What a parser reads of these tokens."""
    parser = AnswerParser(written, GIVEN, opened, toy.specials)
    events: list[AnswerEvent] = []
    text = b""
    for token in tokens:
        if EOS < token <= EOS + len(toy.specials):
            events += parser.feed(text.decode()) + parser.feed_special(toy.tokens[token].decode())
            text = b""
        else:
            text += toy.tokens[token]
    return events + parser.feed(text.decode()) + parser.finish()


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("choice", ["auto", "required", NAMED, ALLOWED], ids=["auto", "required", "named", "allowed"])
def test_what_a_model_writes_is_read_back(written: ToolFormat, choice: Any) -> None:
    """A random model under the grammar: every call is complete, of a tool that it may call, its arguments valid."""
    toy, chosen = vocabulary(written), tool_choice_of(choice, GIVEN)
    calls = 0
    for seed in range(9):
        opened = written.reasoning if seed % 3 == 2 and not written.marks_content else None
        parallel = seed % 2 == 0
        grammar = answer_grammar(written, chosen, toy.specials, parallel=parallel, opened=opened)
        tokens = toy.written(grammar, seed)
        if tokens is None:
            continue
        found = summary(events_of(written, toy, tokens, opened))
        called = [one for one in found if not isinstance(one, str)]
        for one in called:
            assert isinstance(one, tuple), found
            assert one[0] in {function["name"] for function in chosen.functions}
            jsonschema.validate(one[1], SCHEMAS[one[0]])
        if choice != "auto":
            assert called
            assert all(one.startswith("~") for one in found if isinstance(one, str)), found
        if choice == NAMED or not parallel:
            assert len(called) <= 1
        calls += len(called)
    assert calls or choice == "auto"


TEXTS = [(family, text) for family, text, expected in WELL_FORMED if not any(isinstance(e, tuple) for e in expected)]


@pytest.mark.parametrize(("family", "text"), TEXTS)
def test_text_without_calls_is_free(family: str, text: str) -> None:
    written = FAMILIES[family]
    toy = vocabulary(written)
    assert toy.accepts(answer_grammar(written, tool_choice_of("auto", TOOLS), toy.specials), text)


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "unit": "C"}}\n</tool_call>'
NO_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("choice", "text", "fits"),
    [
        ("auto", "Hello <tool_cal", True),
        ("auto", f"Sure.\n{CALL}\n{NO_CALL}\nDone.", True),
        ("auto", "Hello <tool_call>", False),
        ("auto", CALL.replace("weather", "open"), False),
        ("auto", CALL.replace('"C"', '"K"'), False),
        ("auto", CALL.replace("city", "town"), False),
        ("auto", f"<think>\n<tool_call> or not\n</think>\n\n{CALL}", True),
        ("auto", f"<think>\nHm.\n</think>\n\nSure. {CALL}", True),
        ("required", CALL, True),
        ("required", f"{CALL}\n{NO_CALL}", True),
        ("required", f"<think>\nHm.\n</think>\n\n{CALL}", True),
        ("required", "Hello", False),
        ("required", f"Sure. {CALL}", False),
        ("required", f"{CALL} Done.", False),
        (NAMED, CALL, True),
        (NAMED, f"{CALL}\n{CALL}", False),
        (NAMED, NO_CALL, False),
        (ALLOWED, f"{NO_CALL}\n{CALL}", True),
        (ALLOWED, NO_CALL.replace("now", "weather_now"), False),
        ("none", "Hello <tool_call>", True),
    ],
)
def test_what_fits_a_choice(choice: Any, text: str, fits: bool) -> None:
    toy = ToyVocabulary(())
    grammar = answer_grammar(FAMILIES["hermes"], tool_choice_of(choice, GIVEN), {})
    assert toy.accepts(grammar, text) is fits


def test_one_call_at_a_time() -> None:
    toy = ToyVocabulary(())
    for choice in ("auto", "required"):
        grammar = answer_grammar(FAMILIES["hermes"], tool_choice_of(choice, GIVEN), {}, parallel=False)
        assert toy.accepts(grammar, CALL)
        assert not toy.accepts(grammar, f"{CALL}\n{CALL}")


def test_whitespace_is_the_model_s_own() -> None:
    """What is most likely is as the template writes it, which leaves one continuation more often."""
    toy = ToyVocabulary(())
    odd = '<tool_call>{"name":"weather","arguments" : {\n  "city": "Rome",\n  "unit": "C"}}</tool_call> '
    for choice in ("auto", "required", NAMED):
        for loose in (True, False):
            grammar = answer_grammar(FAMILIES["hermes"], tool_choice_of(choice, GIVEN), {}, loose=loose)
            assert toy.accepts(grammar, odd) is loose
            assert toy.accepts(grammar, CALL)
    exact = answer_grammar(FAMILIES["hermes"], tool_choice_of(NAMED, GIVEN), {}, reasoning=False, loose=False)
    forced = '<tool_call>\n{"name": "weather", "arguments": {"city": "'
    assert toy.matcher(exact).compute_ff_bytes().decode() == forced


def test_tools_that_are_not_strict_may_be_left_unbound() -> None:
    """Then any object is an argument, but for tools that say they are strict."""
    strict = {"name": "strict", "strict": True, "parameters": {"type": "object", "properties": {"a": {"type": "null"}}}}
    choice = tool_choice_of("auto", [*GIVEN, {"type": "function", "function": strict}])
    grammar = answer_grammar(FAMILIES["hermes"], choice, {}, strict=False)
    toy = ToyVocabulary(())
    assert toy.accepts(grammar, CALL.replace("city", "town"))
    assert toy.accepts(grammar, NO_CALL.replace("now", "strict"))
    assert not toy.accepts(grammar, NO_CALL.replace('now", "arguments": {', 'strict", "arguments": {"b": 1'))


def test_reasoning_that_the_prompt_has_opened_must_end() -> None:
    written, toy = FAMILIES["hermes"], ToyVocabulary(())
    grammar = answer_grammar(written, tool_choice_of("required", GIVEN), {}, opened=written.reasoning)
    assert toy.accepts(grammar, f"Hm.\n</think>\n\n{CALL}")
    assert not toy.accepts(grammar, CALL)


@pytest.mark.parametrize("written", FORMATS)
def test_a_model_that_may_not_reason_does_not(written: ToolFormat) -> None:
    """Whatever it may call, and where the prompt has opened its reasoning that is closed without a word in it."""
    toy = vocabulary(written)
    for seed, choice in enumerate(("auto", "required", "none")):
        for opened in {None, None if written.marks_content else written.reasoning}:
            content = None if choice != "none" else ContentFormat("json", {"enum": ["Paris"]})
            chosen = tool_choice_of(choice, GIVEN)
            grammar = answer_grammar(written, chosen, toy.specials, opened=opened, reasoning=False, content=content)
            tokens = toy.written(grammar, seed) or []
            assert not [one for one in summary(events_of(written, toy, tokens, opened)) if str(one).startswith("~")]
            if opened is None and written.reasoning and not written.marks_content:
                begun = toy.encoded(f"{written.reasoning.open}Hm.")
                assert toy.matcher(grammar).try_consume_tokens(begun) < len(begun)


def test_content_of_a_schema_beside_reasoning_and_calls() -> None:
    """One grammar spans the whole answer: reasoning is free, content is of the schema."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    toy = ToyVocabulary(())
    for choice, called in (("none", False), ("auto", True)):
        grammar = answer_grammar(
            FAMILIES["hermes"], tool_choice_of(choice, GIVEN), {}, content=ContentFormat("json", schema)
        )
        assert toy.accepts(grammar, '{"a": 5}')
        assert toy.accepts(grammar, '<think>\nHm {"a"\n</think>\n\n{"a": 5}')
        assert not toy.accepts(grammar, '{"a": "b"}')
        assert not toy.accepts(grammar, "Five")
        assert toy.accepts(grammar, CALL) is called


def test_messages_of_a_format_that_marks_content() -> None:
    written = FAMILIES["harmony"]
    toy = vocabulary(written)
    call = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    final = "<|channel|>final<|message|>Hello.<|return|>"
    auto = answer_grammar(written, tool_choice_of("auto", GIVEN), toy.specials)
    required = answer_grammar(written, tool_choice_of("required", GIVEN), toy.specials)
    for answer in (call, thought + call, thought + thought + call):
        assert toy.accepts(auto, answer)
        assert toy.accepts(required, answer)
    for answer in (final, thought + final, final.removesuffix("<|return|>")):
        assert toy.accepts(auto, answer)
        assert not toy.accepts(required, answer)
    assert not toy.accepts(auto, "Hello.")


def test_a_text_spells_special_tokens_freely() -> None:
    """Only the token begins a call; the same letters are text."""
    written = FAMILIES["mistral"]
    toy = vocabulary(written)
    grammar = answer_grammar(written, tool_choice_of("auto", GIVEN), toy.specials)
    letters = list(b"[TOOL_CALLS]")
    matcher = toy.matcher(grammar)
    assert matcher.try_consume_tokens(letters) == len(letters)
    assert matcher.is_accepting()


def test_a_grammar_is_small_and_soon_ready() -> None:
    """Sixty-four tools of ten parameters each."""
    parameters = {
        "type": "object",
        "properties": {f"p{i}": {"type": "string", "description": "d"} for i in range(10)},
        "required": ["p0"],
    }
    tools = [{"type": "function", "function": {"name": f"tool_{i}", "parameters": parameters}} for i in range(64)]
    toy = ToyVocabulary(())
    for name in ("hermes", "qwen3_coder", "pythonic"):
        began = time.perf_counter()
        grammar = answer_grammar(FAMILIES[name], tool_choice_of("auto", tools), {})
        matcher = toy.matcher(grammar)
        matcher.compute_bitmask()
        assert time.perf_counter() - began < 2
        assert len(grammar) < 200_000
