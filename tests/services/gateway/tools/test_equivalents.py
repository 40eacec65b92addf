"""Schemas that are said otherwise mean what they meant, and then an answer can be held to them."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import jsonschema
import pytest

from quire_services.gateway.tools.grammar.annotations import bare
from quire_services.gateway.tools.grammar.content_format import ContentFormat
from quire_services.gateway.tools.grammar.equivalents import equivalent
from tests.services.gateway.tools.random_schemas import random_object
from tests.services.gateway.tools.toy_vocabulary import ToyVocabulary

COLOR = {"$defs": {"Color": {"enum": ["a", "b"], "type": "string"}}}
SCHEMAS: list[dict[str, Any]] = [
    {"oneOf": [{"type": ["string", "null"]}, {"type": ["integer", "null"]}]},
    {"oneOf": [{"type": "string"}, {"type": "string"}, {"type": "boolean"}]},
    {"type": "object", "additionalProperties": {"type": "integer"}, "propertyNames": {"enum": ["a", "b"]}},
    {"type": "object", "additionalProperties": {"type": "integer"}, "propertyNames": {"$ref": "#/$defs/Color"}} | COLOR,
    {"type": "object", "propertyNames": {"const": "a"}},
    {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "null"}},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "unevaluatedProperties": False},
    {"type": "object", "properties": {"a": True}, "required": ["a"], "minProperties": 1, "additionalProperties": False},
    {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 1},
    {"type": "array", "items": {"oneOf": [{"type": ["string", "null"]}, {"type": "null"}]}},
]
AS_IT_IS: list[dict[str, Any]] = [
    {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    {"oneOf": [{"type": "string"}, {"type": "string"}]},
    {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]},
    {"type": "object", "propertyNames": {"pattern": "^a"}},
    {"type": "object", "properties": {"a": {}}, "propertyNames": {"enum": ["a"]}},
    {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
    {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1},
    {"type": "array", "uniqueItems": True, "maxItems": 2},
]
VOCABULARY = ToyVocabulary(())
LEAVES = (None, True, 0, 1.5, "", "x", [], [1], [1, 1], ["x"], [None], {})
VALUES = [*LEAVES, *({"a": one} for one in LEAVES), *({"a": a, "b": b} for a, b in product(LEAVES, LEAVES)), {"c": 0}]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_what_is_said_otherwise_means_the_same(schema: dict[str, Any]) -> None:
    """On values of all kinds; a grammar takes what is valid and nothing else."""
    judge = jsonschema.Draft202012Validator(schema)
    grammar = ContentFormat("json", schema).grammar()
    valid = 0
    for value in VALUES:
        assert VOCABULARY.accepts(grammar, json.dumps(value)) is judge.is_valid(value), value
        valid += judge.is_valid(value)
    assert 0 < valid < len(VALUES)


@pytest.mark.parametrize("schema", AS_IT_IS)
def test_what_would_mean_something_else_stays(schema: dict[str, Any]) -> None:
    assert equivalent(bare(schema)) == schema


def test_random_schemas_mean_the_same() -> None:
    for seed in range(60):
        schema = random_object(seed)
        before, after = (jsonschema.Draft202012Validator(one) for one in (schema, equivalent(bare(schema))))
        for value in VALUES:
            assert before.is_valid(value) == after.is_valid(value), (schema, value)
