"""Parameter types: what a tool's schema allows for an argument, to read arguments that are not JSON.

Where a format writes a string without quotes, only the schema tells ``5`` from ``"5"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from . import python_values

Tool = Mapping[str, Any]
Leaf = Mapping[str, Any]  # a schema that is of one type, or lists values, or says nothing
_MOST_STEPS = 64  # for one argument: a schema may refer to itself, in many places at once
_KINDS: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}


class ParameterTypes:
    """The parameters of the tools of a request; None: they are not known."""

    def __init__(self, tools: Iterable[Tool] | None = None) -> None:
        self._tools = tools

    @cached_property
    def _schemas(self) -> dict[str, Any]:  # of the tools, looked at when the first call comes: most answers have none
        functions = [tool.get("function", tool) for tool in self._tools or ()]
        return {one["name"]: one.get("parameters") or {} for one in functions}

    def known(self, name: str) -> bool:
        """Whether a call of ``name`` can be one of these tools, or they are not known."""
        return self._tools is None or name in self._schemas

    def keys(self, name: str) -> list[str]:
        """Names of a tool's parameters, in order."""
        return list(_properties(self._schemas.get(name)))

    def of(self, name: str, key: str) -> list[Leaf]:
        """What an argument may be, null before all else."""
        schema = self._schemas.get(name, {})
        return sorted(leaves(_properties(schema).get(key), schema), key=lambda leaf: leaf.get("type") != "null")

    def brief(self) -> list[dict[str, Any]]:
        """Functions of which the same is read."""
        return [{"name": name, "parameters": {"properties": self._brief(name)}} for name in self._schemas]

    def _brief(self, name: str) -> dict[str, Any]:
        allowed = {key: self.of(name, key) for key in self.keys(name)}
        return {key: {"anyOf": [_brief(leaf) for leaf in found]} for key, found in allowed.items()}


def _properties(schema: Any) -> Mapping[str, Any]:
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def leaves(schema: Any, root: Any) -> list[Leaf]:
    """The schemas that a schema has to choose from, the first ones if there are very many; references are looked up in
    ``root``."""
    found: list[Leaf] = []
    ahead = [schema]  # the next one last
    for _ in range(_MOST_STEPS):
        if not ahead:
            break
        one = ahead.pop()
        if not isinstance(one, Mapping):
            found.append({})
        elif isinstance(one.get("$ref"), str):
            ahead.append(_referred(one["$ref"], root))
        elif among := next((one[key] for key in ("anyOf", "oneOf") if isinstance(one.get(key), list)), None):
            ahead += reversed(among[:_MOST_STEPS])
        elif isinstance(one.get("type"), list) and listed_values(one) is None:
            found += [{**one, "type": name} for name in one["type"][:_MOST_STEPS]]
        else:
            found.append(one)
    return found or [{}]


def brief_tools(tools: Iterable[Tool]) -> list[Tool]:
    """The same tools with what ``ParameterTypes`` reads of them, and no more."""
    functions = ParameterTypes(tools).brief()
    return [{"type": "function", "function": function} for function in functions]


def _brief(leaf: Leaf) -> Leaf:
    """What is read of a leaf."""
    return {key: leaf[key] for key in ("type", "const", "enum") if key in leaf}


def listed_values(leaf: Leaf) -> list[Any] | None:
    """The values that a schema lists; None if it lists none."""
    if "const" in leaf:
        return [leaf["const"]]
    return leaf["enum"] if isinstance(leaf.get("enum"), list) else None


def is_text(leaf: Leaf) -> bool:
    """Whether it is any string, or anything at all."""
    return listed_values(leaf) is None and leaf.get("type", "string") == "string"


def _referred(reference: str, root: Any) -> Any:
    """What a reference within a schema points to; None if that is nothing."""
    found = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def text_as_json(text: str, allowed: list[Leaf]) -> str:
    """An argument that is written without quotes, as JSON of the first of these that it can be."""
    string, written = json.dumps(text, ensure_ascii=False), text.strip()
    found = _loaded(written)
    for leaf in allowed:
        values, kind = listed_values(leaf), leaf.get("type")
        if values is not None:
            if text in values:
                return string
            if any(value == found and type(value) is type(found) for value in values):
                return python_values.literal_as_json(written)
        elif kind == "string":
            return string
        elif kind == "integer" and isinstance(found, float) and found.is_integer():
            return json.dumps(int(found))
        elif type(found) in _KINDS.get(str(kind), ()) or (kind is None and not isinstance(found, str)):
            return python_values.literal_as_json(written)
    return string


def _loaded(text: str) -> Any:
    """What a text says as JSON, or as Python writes the same; the text if it is neither."""
    try:
        return json.loads(python_values.literal_as_json(text)) if text[:1] not in ('"', "'") else text
    except ValueError:
        return text
