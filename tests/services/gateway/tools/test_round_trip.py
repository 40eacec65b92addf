"""What a template writes of a call is read back as the same call, whatever its arguments say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_services.gateway.tools.format_choice import answer_texts
from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from tests.services.gateway.tools.family_templates import FAMILY_TEMPLATES, renderer
from tests.services.gateway.tools.samples import summary

CASES = [(family, source) for family, cases in FAMILY_TEMPLATES.items() for source, _ in cases]
PROPERTIES = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "part": {"type": "number"},
    "sure": {"type": "boolean"},
    "none": {"type": "null"},
    "list": {"type": "array"},
    "more": {"type": "object"},
}
TOOLS = [
    {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": PROPERTIES}}}
]
TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cn", "Cc"]) | st.sampled_from("\"'\\<>{}[]()=,:`\n\t"), max_size=12
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXT,
        "count": st.integers(),
        "part": NUMBERS,
        "sure": st.booleans(),
        "none": st.none(),
        "list": st.lists(VALUES, max_size=3),
        "more": st.dictionaries(TEXT, VALUES, max_size=3),
    },
)


def read_back(family: str, source: str, arguments: dict[str, Any]) -> list[Any]:
    """The calls that are read from where an answer with one begins."""
    render = renderer(source)
    user = {"role": "user", "content": "q"}
    call = {"id": "call12345", "type": "function", "function": {"name": "look_up", "arguments": json.dumps(arguments)}}
    before = render([user, {"role": "assistant", "content": "qzx"}], None).partition("qzx")[0]
    written = render([user, {"role": "assistant", "content": "", "tool_calls": [call]}], None)
    found: list[list[Any]] = []
    for text in answer_texts(before, written):
        parser = AnswerParser(FAMILIES[family], TOOLS)
        found.append([one for one in summary(parser.feed(text) + parser.finish()) if not isinstance(one, str)])
    return max(found, key=len)


@pytest.mark.parametrize(("family", "source"), CASES)
@given(arguments=ARGUMENTS)
@settings(max_examples=25, deadline=None)
def test_a_call_comes_back(family: str, source: str, arguments: dict[str, Any]) -> None:
    assert read_back(family, source, arguments) == [("look_up", arguments)]


CODE = "def f(x):\n    return {\"a\": x, 'b': [1]}\n\n# <tool_call> </think> [TOOL_CALLS] ``` \\n\n"


@pytest.mark.parametrize(("family", "source"), CASES)
def test_a_program_comes_back(family: str, source: str) -> None:
    """Text that has marks of other families in it, quotes, brackets and lines."""
    assert read_back(family, source, {"text": CODE, "more": {"text": CODE}}) == [
        ("look_up", {"text": CODE, "more": {"text": CODE}})
    ]
