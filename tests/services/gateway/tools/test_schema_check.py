"""Schemas that no grammar can say: of strict tools they are refused, of others they bind as far as they can."""

from __future__ import annotations

from typing import Any

import pytest

from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.formats.tool_format import CallBody
from quire_services.gateway.tools.grammar.answer_grammar import answer_grammar
from quire_services.gateway.tools.grammar.schema_check import SchemaInvalid, unbound_tools
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of
from tests.services.gateway.tools.toy_vocabulary import ToyVocabulary

IN_PART: list[dict[str, Any]] = [
    {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
    {"type": "array", "items": {"type": "string", "format": "regex"}},
    {"type": "array", "items": {"type": "string"}, "not": {"type": "null"}},
    {"type": "array", "items": {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}},
]
NOT_AT_ALL: list[dict[str, Any]] = [
    {"type": "string", "pattern": "^(?!x)"},
    {"type": "text"},
    {"type": "integer", "minimum": 5, "maximum": 2},
    {"$ref": "https://example.com/schema"},
    {"enum": []},
    {"properties": 5, "type": "object"},
]
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"a": ["x"]}}\n</tool_call>',
    "qwen3_coder": '<tool_call>\n<function=f>\n<parameter=a>\n["x"]\n</parameter>\n</function>\n</tool_call>',
    "pythonic": '[f(a=["x"])]',
}


def tool(one: dict[str, Any], strict: bool = False) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"a": one}, "required": ["a"]}
    return {"name": "f", "strict": strict, "parameters": parameters}


def body_of(family: str) -> CallBody:
    return FAMILIES[family].forms[0].body


def accepts(family: str, one: dict[str, Any], text: str) -> bool:
    functions = [tool(one)]
    unbound = unbound_tools(functions, body_of(family))
    choice = tool_choice_of("required", functions)
    return ToyVocabulary(()).accepts(answer_grammar(FAMILIES[family], choice, {}, unbound=unbound), text)


@pytest.mark.parametrize("one", IN_PART)
@pytest.mark.parametrize("family", WRITTEN)
def test_what_is_not_known_says_nothing(family: str, one: dict[str, Any]) -> None:
    assert unbound_tools([tool(one)], body_of(family)) == frozenset()
    assert accepts(family, one, WRITTEN[family])
    assert not accepts(family, one, WRITTEN[family].replace('["x"]', "[5]"))
    with pytest.raises(SchemaInvalid, match="strict tool 'f'"):
        unbound_tools([tool(one, strict=True)], body_of(family))


@pytest.mark.parametrize("one", NOT_AT_ALL)
@pytest.mark.parametrize("family", WRITTEN)
def test_what_makes_no_sense_binds_nothing(family: str, one: dict[str, Any]) -> None:
    assert unbound_tools([tool(one)], body_of(family)) == {"f"}
    assert accepts(family, one, WRITTEN[family])
    assert accepts(family, one, WRITTEN[family].replace('["x"]', "[5]"))
    with pytest.raises(SchemaInvalid):
        unbound_tools([tool(one, strict=True)], body_of(family), strict=False)


def test_tools_that_are_not_to_be_held_are_not_asked() -> None:
    assert unbound_tools([tool(NOT_AT_ALL[0])], body_of("hermes"), strict=False) == frozenset()


@pytest.mark.parametrize("one", [{"type": "array"}, {}, {"$ref": "#/$defs/x"}, {"anyOf": [{"type": "array"}]}])
@pytest.mark.parametrize("family", WRITTEN)
def test_what_can_be_held(family: str, one: dict[str, Any]) -> None:
    given = tool(one, strict=True)
    given["parameters"]["$defs"] = {"x": {"type": "array"}}
    assert unbound_tools([given], body_of(family)) == frozenset()
    grammar = answer_grammar(FAMILIES[family], tool_choice_of("required", [given]), {})
    assert ToyVocabulary(()).accepts(grammar, WRITTEN[family])


OPEN: list[tuple[dict[str, Any], str, bool]] = [
    ({"properties": {"a": {}}}, '{"a": 1, "b": 2}', False),
    ({"properties": {"a": {}}, "additionalProperties": True}, '{"a": 1, "b": 2}', True),
    ({"properties": {"a": {}}, "required": ["a", "b"]}, '{"a": 1, "b": 2}', True),
    ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, '{"a": 1, "b": 2}', True),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {}}}}}, '{"a": 1, "b": 2}', False),
    ({"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]}, '{"a": 1, "b": 2}', True),
    ({"properties": {"a": {"properties": {"c": {}}}}}, '{"a": {"c": 1, "d": 2}}', False),
    ({"properties": {}}, '{"a": 1}', False),
    ({}, '{"a": 1}', False),
    ({"additionalProperties": {"type": "integer"}}, '{"a": 1}', True),
]


@pytest.mark.parametrize(("parameters", "arguments", "fits"), OPEN)
def test_what_is_not_listed_is_left_out_where_schemas_are_not_combined(
    parameters: dict[str, Any], arguments: str, fits: bool
) -> None:
    functions = [{"name": "f", "parameters": {"type": "object", **parameters}}]
    assert unbound_tools(functions, body_of("hermes")) == frozenset()
    grammar = answer_grammar(FAMILIES["hermes"], tool_choice_of("required", functions), {})
    text = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    assert ToyVocabulary(()).accepts(grammar, text) is fits
