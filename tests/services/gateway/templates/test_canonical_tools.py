"""Canonical tools: what frameworks add to a function is left out, and nothing that says anything."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_services.gateway.templates.canonical_tools import canonical_tools

Json = dict[str, Any]
NAMES = st.sampled_from(["city", "zip_code", "title", "description", "required", "properties", "type", "to"])
TEXTS = st.sampled_from(["where", "City", "how many\n  of them", "strict", "false"])
SCALARS = st.sampled_from(["string", "integer", "number", "boolean"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.just("EUR"), st.just({"b": 1, "a": {"title": "a"}}))


OPEN = {"properties": {"a": {}}, "allOf": [{}]}


def schemas(depth: int = 1) -> st.SearchStrategy[Json]:
    """Schemas as classes of Python and TypeScript have them."""
    about = {
        "description": TEXTS, "title": TEXTS, "default": VALUES, "enum": st.lists(VALUES, min_size=1, max_size=2),
    }  # fmt: skip
    leaf = st.fixed_dictionaries({"type": SCALARS}, optional=about)
    if depth == 0:
        return leaf
    inner = schemas(depth - 1)
    listed = st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"minItems": st.integers(0, 1)})
    either = st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}, optional=about)
    mapped = st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner | st.just(True)})
    return st.one_of(leaf, listed, either, mapped, objects(inner))


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Json]) -> Json:
    """Schemas of objects with properties, some of them required."""
    properties = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


@st.composite
def tools(draw: st.DrawFn) -> Json:
    """Tools in canonical form, as any text they have is more than a repeated name."""
    function = {"name": draw(NAMES), "description": "Tell " + draw(TEXTS), "parameters": draw(objects(schemas()))}
    [tool] = canonical_tools([{"type": "function", "function": function}])
    return tool


def schemas_in(schema: Any, name: str) -> Iterator[tuple[Json, str]]:
    """A schema and those in it, each with the name of its property."""
    if not isinstance(schema, dict):
        return
    yield schema, name
    for of, inner in schema.get("properties", {}).items():
        yield from schemas_in(inner, of)
    for one in [schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", [])]:
        yield from schemas_in(one, "")


def shuffled(draw: st.DrawFn, value: Any, properties: bool = False) -> Any:
    """The same JSON with its keys in another order, but for those of properties and of data."""
    if not isinstance(value, dict):
        return [shuffled(draw, one) for one in value] if isinstance(value, list) else value
    keys = list(value) if properties else draw(st.permutations(list(value)))
    data = ("default", "enum")
    return {
        key: value[key]
        if key in data and not properties
        else shuffled(draw, value[key], key == "properties" and not properties)
        for key in keys
    }


def said_by_a_framework(draw: st.DrawFn, tool: Json) -> Json:
    """The tool with what a framework may add to it."""
    tool = copy.deepcopy(tool)
    function = tool["function"]
    parameters = function["parameters"]
    for schema, name in list(schemas_in(parameters, "")):
        if "properties" in schema and draw(st.booleans()):
            schema["additionalProperties"] = False
        if "required" in schema:
            schema["required"] = draw(st.permutations(schema["required"]))
        if name and "title" not in schema and draw(st.booleans()):
            schema["title"] = draw(st.sampled_from([name, name.title().replace("_", " ")]))
        if name and "description" not in schema and draw(st.booleans()):
            schema["description"] = draw(st.sampled_from([name, "", None]))
    if draw(st.booleans()):
        parameters["title"] = function["name"] + draw(st.sampled_from(["", "_args", "Arguments"]))
        parameters["$schema"] = "http://json-schema.org/draft-07/schema#"
        parameters["description"] = function["description"]
    if draw(st.booleans()):
        function["strict"] = draw(st.sampled_from([True, False, None]))
        function["description"] = "  " + function["description"].replace("\n", "\n    ") + "\n  "
    if draw(st.booleans()):
        del tool["type"]
    shaken: Json = shuffled(draw, tool)
    return shaken


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_frameworks_add_is_left_out(data: st.DataObject) -> None:
    """Whatever is added in whatever order, the same text of JSON comes out, and what came in is as it was."""
    tool = data.draw(tools())
    sent = said_by_a_framework(data.draw, tool)
    before = json.dumps(sent)

    assert json.dumps(canonical_tools([sent])) == json.dumps([tool])
    assert json.dumps(sent) == before


def changed(value: Any) -> Iterator[tuple[str, Any]]:
    """A JSON value with one thing in it changed: another leaf, a key less, an element less, two in another order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f".{key}", {name: one for name, one in value.items() if name != key}
            yield f".{key}", {(name + "_s" if name == key else name): one for name, one in value.items()}
            for path, other in changed(inner):
                yield f".{key}{path}", value | {key: other}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield f"[{place}]", value[:place] + value[place + 1 :]
            for path, other in changed(inner):
                yield f"[{place}]{path}", [*value[:place], other, *value[place + 1 :]]
    elif isinstance(value, bool):
        yield "", not value
    else:
        yield "", {"": "said", None: 0}.get(value, f"{value} s" if isinstance(value, str) else value)
        yield "", ["s"]


@settings(deadline=None, max_examples=50)
@given(tools())
def test_functions_that_differ_stay_apart(tool: Json) -> None:
    """Whatever is changed in a function, but for the word that it is one, its canonical form is another one."""
    once = json.dumps(canonical_tools([tool]))
    assert once == json.dumps([tool])
    for path, other in changed(tool):
        if other != tool and path != ".type":
            assert json.dumps(canonical_tools([other])) != once, path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "object"}, {"type": "object", "additionalProperties": False}),
        ({"properties": {"a": {}}}, {"properties": {"a": {}}, "additionalProperties": True}),
        (OPEN, OPEN | {"additionalProperties": False}),
        ({"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}),
        ({"properties": {"a": {"title": "A"}}}, {"properties": {"a": {"title": "Celsius"}}}),
        ({"properties": {"a": {"default": None}}}, {"properties": {"a": {}}}),
        ({"properties": {"a": {"enum": [1, 2]}}}, {"properties": {"a": {"enum": [2, 1]}}}),
        ({"properties": {"a": {"enum": ["a\n  b"]}}}, {"properties": {"a": {"enum": ["a\nb"]}}}),
        ({"properties": {"a": {"const": {"title": "a"}}}}, {"properties": {"a": {"const": {}}}}),
        ({"properties": {"title": {"type": "string"}}}, {"properties": {}}),
        ({"$ref": "#/$defs/Euro", "$defs": {"Euro": {}}}, {"$ref": "#/$defs/Yen", "$defs": {"Yen": {}}}),
    ],
)  # fmt: skip
def test_schemas_that_look_alike_stay_apart(one: Json, other: Json) -> None:
    """Closed and open objects, orders that a model follows, titles that say something, data that looks like schemas."""
    made = [canonical_tools([{"function": {"name": "f", "parameters": schema}}]) for schema in (one, other)]
    assert json.dumps(made[0]) != json.dumps(made[1])


@pytest.mark.parametrize(
    "parameters",
    [None, {"type": "object", "properties": {}}, {"properties": {}, "type": "object", "required": []},
     {"type": "object", "properties": {}, "additionalProperties": False}],
)  # fmt: skip
def test_no_parameters_are_said_in_one_way(parameters: Json | None) -> None:
    """Left out, null or empty: the function has none, and a template finds an empty object where it looks for them."""
    [tool] = canonical_tools([{"function": {"parameters": parameters, "name": "f", "description": None}}])
    assert json.dumps(tool) == (
        '{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}'
    )


@pytest.mark.parametrize("odd", [None, 5, "x", [], {"function": 5}, {"type": "code"}, {"type": 5, "function": {}}])
def test_what_is_no_function_is_left_alone(odd: Any) -> None:
    """It is refused elsewhere, or not, and is not touched here."""
    assert canonical_tools([odd]) == [odd]


@settings(deadline=None)
@given(st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["properties", "items", "title", "required", "anyOf", "description", "additionalProperties", "x"]),
    inner,
)))  # fmt: skip
def test_no_schema_is_too_odd(odd: Any) -> None:
    """Whatever stands where a schema is expected: a second time changes nothing."""
    function = {"name": odd, "description": odd, "parameters": odd}
    once = canonical_tools([{"type": "function", "function": function}])
    assert json.dumps(canonical_tools(once)) == json.dumps(once)
