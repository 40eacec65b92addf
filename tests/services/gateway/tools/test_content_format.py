"""What content must be, as both APIs say it, and what a grammar makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.grammar.answer_grammar import answer_grammar
from quire_services.gateway.tools.grammar.content_format import ContentFormatInvalid, content_format_of
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of
from tests.services.gateway.tools.toy_vocabulary import ToyVocabulary

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OF_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
OF_SCHEMA_PARAM = "response_format.json_schema.schema"
FLAT = {"type": "json_schema", "name": "n", "schema": SCHEMA}


def accepts(response_format: Any, structured: Any, text: str, family: str = "hermes") -> bool:
    content = content_format_of(response_format, structured)
    grammar = answer_grammar(FAMILIES[family], tool_choice_of(None, None), {}, content=content)
    return ToyVocabulary(()).accepts(grammar, text)


@pytest.mark.parametrize(
    ("response_format", "structured", "fits", "unfit"),
    [
        ({"type": "json_object"}, None, '{"a": [1, null]}', "[1]"),
        (OF_SCHEMA, None, '{"a": 5}', '{"a": 5, "b": 6}'),
        (FLAT, None, '{"a": 5}', '{"a": "5"}'),
        (None, {"json": SCHEMA}, '{"a": 5}', "{}"),
        (None, {"json": '{"type": "null"}'}, "null", "{}"),
        (None, {"json_object": True}, "{}", "null"),
        (None, {"json": True}, "[1]", "one"),
        (None, {"regex": r"\d{3}/[a-z]+\/?"}, "123/ab/", "12/ab"),
        (None, {"regex": "a\nb"}, "a\nb", "ab"),
        (None, {"choice": ['yes "so"', "no\n"]}, 'yes "so"', "yes"),
        (None, {"grammar": 'start: "a" B+\nB: /[bc}]/'}, "abc}", "ba"),
        (None, {"grammar": 'root ::= "a" rest\nrest ::= [b-c]+'}, "abcb", "a"),
        ({"type": "text"}, {"regex": None, "choice": ["x"]}, "x", "y"),
    ],
)
def test_what_content_must_be(response_format: Any, structured: Any, fits: str, unfit: str) -> None:
    assert accepts(response_format, structured, fits)
    assert not accepts(response_format, structured, unfit)
    assert accepts(response_format, structured, f"<think>\nHm.\n</think>\n\n{fits}")


@pytest.mark.parametrize("given", [None, {"type": "text"}])
def test_any_text(given: Any) -> None:
    assert content_format_of(given) is None
    assert content_format_of(given, {"regex": None, "json_object": False}) is None


@pytest.mark.parametrize(
    ("response_format", "structured", "param"),
    [
        ({"type": "xml"}, None, "response_format.type"),
        ("json", None, "response_format.type"),
        ({"type": "json_schema"}, None, OF_SCHEMA_PARAM),
        ({"type": "json_schema", "json_schema": {"schema": 5}}, None, OF_SCHEMA_PARAM),
        (None, {"json": "{"}, "structured_outputs.json"),
        (None, {"json": [1]}, "structured_outputs.json"),
        (None, {"regex": ""}, "structured_outputs.regex"),
        (None, {"choice": []}, "structured_outputs.choice"),
        (None, {"choice": ["a", 5]}, "structured_outputs.choice"),
        (None, {"choice": ["a"] * 10_001}, "structured_outputs.choice"),
        (None, {"grammar": 5}, "structured_outputs.grammar"),
        (None, {"regex": "a", "choice": ["b"]}, "structured_outputs.choice"),
        (OF_SCHEMA, {"regex": "a"}, "structured_outputs.regex"),
        (None, {"structural_tag": "{}"}, "structured_outputs.structural_tag"),
        (None, {"json": True, "whitespace_pattern": 5}, "structured_outputs.whitespace_pattern"),
        ({"type": "json_schema", "json_schema": {"schema": {"x-guidance": 5}}}, None, OF_SCHEMA_PARAM),
    ],
)
def test_what_cannot_be(response_format: Any, structured: Any, param: str) -> None:
    with pytest.raises(ContentFormatInvalid) as caught:
        content_format_of(response_format, structured)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("guided", "fits", "unfit"),
    [
        ({"json": SCHEMA}, '{"a": 5}', "{}"),
        ({"regex": "[ab]+", "choice": None}, "ab", "c"),
        ({"choice": ["x", "y"]}, "y", "z"),
        ({"grammar": 'start: "q"'}, "q", "r"),
        ({"json": SCHEMA, "whitespace_pattern": r"\n?"}, '{\n"a":\n5\n}', '{"a": 5}'),
    ],
)
def test_the_older_words_of_the_same(guided: Any, fits: str, unfit: str) -> None:
    """``guided_*``, of completions: the text is nothing else, reasoning neither."""
    content = content_format_of(None, None, guided)
    assert content is not None
    vocabulary = ToyVocabulary(())
    assert vocabulary.accepts(content.grammar(), fits)
    assert not vocabulary.accepts(content.grammar(), unfit)
    assert not vocabulary.accepts(content.grammar(), f"<think>\nHm.\n</think>\n\n{fits}")
    with pytest.raises(ContentFormatInvalid, match=r"together with 'structured_outputs\.regex'"):
        content_format_of(None, {"regex": "a"}, guided)


def test_a_grammar_that_is_not_valid() -> None:
    with pytest.raises(ContentFormatInvalid, match=r"structured_outputs\.grammar"):
        accepts(None, {"grammar": "root ::= ("}, "")
