"""Canonical tools: functions that say the same become the same JSON, whichever framework wrote them down.

Frameworks make a function of one Python signature each in its own way: keys in another order, ``strict``, a title that
repeats the parameter's name, ``additionalProperties: false``, a description indented as its docstring was. A template
writes what it is given, so one published prompt would be hit by one framework only. This form is what a template sees
then; answers are still held to the schemas that the client sent.

What is left out is what can be said of any function without knowing it: a name repeated, an empty list, how strictly a
server is to check. All else stays, word by word and in its order: descriptions, defaults, the order of parameters, the
names of classes. Two functions that differ there are two functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import dedent
from typing import Any

_Schema = dict[str, Any]
_NO_PARAMETERS: _Schema = {"type": "object", "properties": {}}
_DIALECTS = ("http://json-schema.org/", "https://json-schema.org/")
_CLASS_ENDS = ("", "args", "arguments")  # of classes that frameworks make of a function

_TOOL_KEYS = ("type", "function")
_FUNCTION_KEYS = ("name", "description", "parameters")
_SCHEMA_KEYS = ("type", "title", "description", "enum", "const", "default", "properties", "required", "items")
# Where a schema holds others: one, a list of them, or some by name. Everything else in it is data.
_ONE = {
    "items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_LISTED = {"anyOf", "oneOf", "allOf", "prefixItems", "items"}
_NAMED = {"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"}
_DEFINITIONS = {"$defs", "definitions"}
# With one of these beside its properties, an object may have others than those that it lists.
_OPEN = {"patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if", "then", "else", "dependentSchemas"}


def canonical_tools(tools: list[Any]) -> list[Any]:
    """The tools of a request in the one form of all that say the same. What is no function stays as it is."""
    return [_tool(tool) if _is_function(tool) else tool for tool in tools]


def _is_function(tool: Any) -> bool:
    kind = tool.get("type", "function") if isinstance(tool, dict) else None
    return kind == "function" and isinstance(tool.get("function"), dict)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return _ordered({**tool, "type": "function", "function": _function(tool["function"])}, _TOOL_KEYS)


def _function(function: dict[str, Any]) -> dict[str, Any]:
    out = dict(function)
    if isinstance(out.get("strict"), bool | None):  # how the server checks, not what the function is
        out.pop("strict", None)
    description = _tidy(out)
    parameters = out.get("parameters")
    if parameters is None:  # the API's way to say that there are none
        out["parameters"] = _NO_PARAMETERS
    elif isinstance(parameters, dict):
        out["parameters"] = _parameters(parameters, str(out.get("name")), description)
    return _ordered(out, _FUNCTION_KEYS)


def _parameters(parameters: _Schema, name: str, description: Any) -> _Schema:
    """The schema of a function's parameters: the outermost object, which is made of the function's own name."""
    title = parameters.get("title")
    repeats = isinstance(title, str) and _letters(title) in [_letters(name) + end for end in _CLASS_ENDS]
    out: _Schema = _schema(parameters, [str(title)] if repeats else (), description)
    if parameters.get("properties") == {}:  # templates look for it, and here it means that there are no parameters
        out = _closed(_ordered({**out, "properties": {}}, _SCHEMA_KEYS))
    if str(out.get("$schema", "")).startswith(_DIALECTS):
        del out["$schema"]
    return out


def _schema(schema: Any, titles: Sequence[str] = (), description: Any = None) -> Any:
    """A schema without what repeats its name (``titles``) or what was said of it elsewhere (``description``)."""
    if not isinstance(schema, dict):
        return schema
    out = {key: _inner(key, value) for key, value in schema.items()}
    if out.get("title") in titles:
        del out["title"]
    if _tidy(out) == description:
        out.pop("description", None)
    if isinstance(required := out.get("required"), list):
        out["required"] = _as_in(required, out.get("properties"))
        if not required:
            del out["required"]
    if out.get("properties") == {}:
        del out["properties"]
    elif "properties" in out:
        out = _closed(out)
    return _ordered(out, _SCHEMA_KEYS)


def _closed(schema: _Schema) -> _Schema:
    """The schema of an object with properties, which has no others: that goes without saying."""
    if schema.get("additionalProperties") is False and _OPEN.isdisjoint(schema):
        return {key: value for key, value in schema.items() if key != "additionalProperties"}
    return schema


def _inner(key: str, value: Any) -> Any:
    """The value of a schema's keyword, with the schemas in it."""
    if key in _NAMED and isinstance(value, dict):
        inner = {name: _schema(one, (name, _title(name)), name) for name, one in value.items()}
        return dict(sorted(inner.items())) if key in _DEFINITIONS else inner
    if key in _LISTED and isinstance(value, list):
        return [_schema(one) for one in value]
    return _schema(value) if key in _ONE else value


def _tidy(said: dict[str, Any]) -> Any:
    """Its description, which from now on is without the margin of a docstring; an empty one is none."""
    description = said.get("description")
    if isinstance(description, str):
        first, newline, rest = description.strip().partition("\n")
        said["description"] = description = first + newline + dedent(rest)
    if description in (None, ""):
        said.pop("description", None)
    return description


def _letters(name: str) -> str:
    """A name without what tells a class's from a function's."""
    return name.replace("_", "").casefold()


def _title(name: str) -> str:
    """The title that pydantic gives to a field of this name."""
    return name.title().replace("_", " ").strip()


def _as_in(names: list[Any], properties: Any) -> list[Any]:
    """The names in the order of the properties, which is the only one that says something."""
    places = {name: place for place, name in enumerate(properties)} if isinstance(properties, dict) else {}
    return sorted(names, key=lambda name: places.get(name, len(places)) if isinstance(name, str) else len(places))


def _ordered(values: dict[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    """The same with these keys first and all others by name."""
    return {key: values[key] for key in (*(key for key in first if key in values), *sorted(values.keys() - set(first)))}
