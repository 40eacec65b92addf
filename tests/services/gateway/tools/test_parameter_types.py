"""What is read of the schemas of tools, and how little of them is needed for that."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from quire_services.gateway.tools.parser.parameter_types import brief_tools, leaves
from tests.services.gateway.tools.samples import TOOLS, WELL_FORMED, summary


@pytest.mark.parametrize(("family", "text"), [(family, text) for family, text, _ in WELL_FORMED])
def test_brief_tools_read_the_same(family: str, text: str) -> None:
    """What is left of tools says as much of an answer as they do."""
    kept = orjson.loads(orjson.dumps(brief_tools(TOOLS)))
    whole, brief = (AnswerParser(FAMILIES[family], tools) for tools in (TOOLS, kept))
    assert summary(whole.feed(text) + whole.finish()) == summary(brief.feed(text) + brief.finish())


def test_brief_tools_keep_types_and_nothing_else() -> None:
    """Descriptions are most of a tool and say nothing of how an argument is read."""
    city = {"anyOf": [{"$ref": "#/$defs/city"}, {"type": "null"}], "description": "d" * 1000}
    parameters = {"$defs": {"city": {"type": "string", "title": "City"}}, "properties": {"city": city}}
    (brief,) = brief_tools(
        [{"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}]
    )
    kept = {"city": {"anyOf": [{"type": "null"}, {"type": "string"}]}}
    assert brief == {"type": "function", "function": {"name": "f", "parameters": {"properties": kept}}}


def test_a_schema_that_refers_to_itself_everywhere_is_read_at_once() -> None:
    """A client writes schemas: what reading one takes has a bound."""
    root: dict[str, Any] = {"properties": {"p": {"anyOf": [{"$ref": "#/properties/p"}] * 100}}}
    assert leaves(root["properties"]["p"], root) == [{}]
    root["properties"]["p"]["anyOf"].insert(0, {"type": "integer"})
    assert {"type": "integer"} in leaves(root["properties"]["p"], root)
    assert len(leaves({"type": ["string"] * 1000}, {})) <= 64
