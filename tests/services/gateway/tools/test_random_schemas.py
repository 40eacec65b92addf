"""Whatever a random model finishes under a random schema is valid, as content and as arguments of a call."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import jsonschema
import pytest

from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.grammar.answer_grammar import answer_grammar
from quire_services.gateway.tools.grammar.content_format import content_format_of
from quire_services.gateway.tools.grammar.schema_check import SchemaInvalid, unbound_tools
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from quire_services.gateway.tools.parser.events import ArgumentsDelta
from tests.services.gateway.tools.random_schemas import random_object
from tests.services.gateway.tools.toy_vocabulary import ToyVocabulary

VOCABULARY = ToyVocabulary(())
MANY = range(300)
HERMES = FAMILIES["hermes"]


def refusal(schema: Any) -> str:
    """Why no answer can be held to a schema, empty if one can."""
    try:
        unbound_tools([{"name": "f", "strict": True, "parameters": schema}], HERMES.forms[0].body)
    except SchemaInvalid as error:
        return str(error)
    return ""


def finished(grammar: str, seed: int) -> str | None:
    tokens = VOCABULARY.written(grammar, seed)
    return None if tokens is None else b"".join(VOCABULARY.tokens[token] for token in tokens).decode()


def check(seeds: range) -> None:
    counts: Counter[str] = Counter()
    for seed in seeds:
        schema = random_object(seed)
        if reason := refusal(schema):
            counts[f"refused: {reason.partition(': ')[2][:60]}"] += 1
            continue
        counts["schemas"] += 1
        valid = jsonschema.Draft202012Validator(schema)
        wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
        content = content_format_of(wanted)
        assert content is not None
        tools = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}]
        call = answer_grammar(HERMES, tool_choice_of("required", tools), {}, reasoning=False, parallel=False)
        for draw in range(2):
            if (text := finished(content.grammar(), seed + draw)) is not None:
                counts["contents"] += 1
                valid.validate(json.loads(text))
            if (text := finished(call, seed + draw)) is not None:
                counts["calls"] += 1
                parser = AnswerParser(HERMES, tools)
                events = parser.feed(text) + parser.finish()
                valid.validate(json.loads("".join(e.text for e in events if isinstance(e, ArgumentsDelta))))
    print(dict(counts))
    assert counts["schemas"] > 0.7 * len(seeds)
    assert min(counts["contents"], counts["calls"]) > 0.7 * 2 * counts["schemas"]


def test_some_answers_are_valid() -> None:
    """A sample of the next."""
    check(MANY[:25])


@pytest.mark.slow
def test_every_answer_is_valid() -> None:
    """Of 300 schemas, two answers and two calls of each; what llguidance refuses is counted by its reason."""
    check(MANY)
