"""What of a schema constrains goes into a grammar, and what only describes does not."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from quire_proto.gateway_link import MAX_GRAMMAR
from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.grammar.annotations import FORMATS, bare
from quire_services.gateway.tools.grammar.answer_grammar import answer_grammar
from quire_services.gateway.tools.grammar.content_format import ContentFormat
from quire_services.gateway.tools.grammar.schema_check import unbound_tools
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of
from tests.services.gateway.tools.random_schemas import random_object
from tests.services.gateway.tools.toy_vocabulary import ToyVocabulary

LONG = "d" * MAX_GRAMMAR
ANNOTATIONS: dict[str, Any] = {
    "title": "t",
    "description": LONG,
    "default": {"description": "x"},
    "examples": [{"title": "y"}],
    "$comment": "c",
    "deprecated": True,
    "readOnly": True,
    "x-order": 5,
    "nullable": False,
    "discriminator": {"propertyName": "kind"},
}
NAMES = ("title", "description", "default", "$comment", "x-order")


def test_names_of_properties_stay_whatever_they_are() -> None:
    """In every place where names stand; and in values that are no schemas nothing is left out."""
    text = {"type": "string"}
    named = dict.fromkeys(NAMES, text)
    schema = {
        "type": "object",
        "properties": named,
        "patternProperties": {"description": text},
        "dependentSchemas": {"title": {"required": ["x-order"]}},
        "$defs": {"title": {"enum": [{"title": "a", "description": "b"}]}, "default": {"const": {"title": 1}}},
        "required": list(NAMES),
    }
    assert bare(schema) == schema
    assert bare({**schema, "properties": dict.fromkeys(NAMES, text | ANNOTATIONS), **ANNOTATIONS}) == schema


@pytest.mark.parametrize(
    "within",
    [
        lambda one: {"type": "array", "items": one},
        lambda one: {"type": "array", "prefixItems": [one, one]},
        lambda one: {"type": "object", "additionalProperties": one},
        lambda one: {"allOf": [one], "anyOf": [one], "oneOf": [one]},
        lambda one: {"not": one, "if": one, "then": one, "else": one},
        lambda one: {"contains": one, "propertyNames": one, "unevaluatedItems": one},
        lambda one: {"definitions": {"a": one}, "dependencies": {"a": one, "b": ["c"]}},
    ],
)
def test_annotations_are_left_out_wherever_a_schema_stands(within: Any) -> None:
    text = {"type": "string", "minLength": 2}
    assert bare(within(text | ANNOTATIONS) | ANNOTATIONS) == within(text)
    assert bare(within(True)) == within(True)


@pytest.mark.parametrize("strict", [True, False])
def test_a_long_description_makes_no_grammar_too_long(strict: bool) -> None:
    """Of content and of tools: what constrains is what counts."""
    schema = {"type": "object", "properties": {"title": {"type": "string"} | ANNOTATIONS}, "required": ["title"]}
    content = ContentFormat("json", schema | ANNOTATIONS, strict=strict).grammar()
    function = {"name": "f", "parameters": schema | ANNOTATIONS, "strict": strict}
    for family in ("hermes", "qwen3_coder", "pythonic"):
        written = FAMILIES[family]
        assert unbound_tools([function], written.forms[0].body) == frozenset()
        call = answer_grammar(written, tool_choice_of("required", [function]), {})
        assert max(len(content), len(call)) < 5_000
    assert ToyVocabulary(()).accepts(content, '{"title": "a"}')
    assert not ToyVocabulary(()).accepts(content, '{"description": "a"}')


@pytest.mark.parametrize(
    ("word", "held"), [("date", True), ("regex", None), ("password", False), ("int32", False), ("weird", False)]
)
def test_a_format_that_json_schema_does_not_define_is_an_annotation(word: str, held: bool | None) -> None:
    """One that it defines is held to, or where that is impossible (None) refused."""
    assert (word in FORMATS) is (held is not False)
    grammar = ContentFormat("json", {"type": "string", "format": word}).grammar()
    if held is None:
        with pytest.raises(AssertionError, match="Unknown format"):
            ToyVocabulary(()).matcher(grammar)
        return
    assert ToyVocabulary(()).accepts(grammar, '"no date"') is not held


@pytest.mark.parametrize(
    ("dialect", "known"),
    [
        ("http://json-schema.org/draft-07/schema#", True),
        ("https://json-schema.org/draft-04/schema", True),
        ("http://json-schema.org/draft/2020-12/schema", True),
        ("https://json-schema.org/draft/2019-09/schema#", True),
        ("https://json-schema.org/schema", False),
        ("https://example.com/our-own-dialect", False),
        (5, False),
    ],
)
def test_a_dialect_is_known_by_any_spelling_or_not_asked_for(dialect: Any, known: bool) -> None:
    """An address that is not quite right is no reason to refuse a schema."""
    schema = {"$schema": dialect, "type": "integer", "minimum": 3}
    assert ("$schema" in bare(schema)) is known
    grammar = ContentFormat("json", schema).grammar()
    assert ToyVocabulary(()).accepts(grammar, "3")
    assert not ToyVocabulary(()).accepts(grammar, "2")


def test_definitions_in_a_place_of_their_own_are_found() -> None:
    """As OpenAPI has them."""
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/components/schemas/A"}},
        "required": ["a"],
        "components": {"schemas": {"A": {"enum": ["x"]}}},
        "other": {"schemas": {}},
    }
    assert set(schema) - set(bare(schema)) == {"other"}
    grammar = ContentFormat("json", schema).grammar()
    assert ToyVocabulary(()).accepts(grammar, '{"a": "x"}')
    assert not ToyVocabulary(()).accepts(grammar, '{"a": "y"}')


def test_what_is_left_means_what_it_meant() -> None:
    """Random schemas, on random values."""
    for seed in range(40):
        schema = random_object(seed)
        assert bare(schema) == schema, json.dumps(schema)
    assert not jsonschema.Draft202012Validator(bare({"const": {"title": 1}} | ANNOTATIONS)).is_valid({})
