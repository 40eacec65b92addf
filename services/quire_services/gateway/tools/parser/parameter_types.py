"""Parameter types: what a tool's schema allows for an argument, to read arguments that are not JSON.

Where a format writes a string without quotes, only the schema tells ``5`` from ``"5"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from . import python_values

Tool = Mapping[str, Any]
Leaf = Mapping[str, Any]  # a schema that is of one type, or lists values, or says nothing
_DEEPEST = 8
_KINDS: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}


class ParameterTypes:
    """The parameters of the tools of a request.

    Attributes:
        names: the tools' names, None if they are not known.
    """

    def __init__(self, tools: Iterable[Tool] | None = None) -> None:
        functions = [tool.get("function", tool) for tool in tools or ()]
        self._schemas = {one["name"]: one.get("parameters") or {} for one in functions}
        self.names = None if tools is None else frozenset(self._schemas)

    def known(self, name: str) -> bool:
        """Whether a call of ``name`` can be one of these tools."""
        return self.names is None or name in self.names

    def keys(self, name: str) -> list[str]:
        """Names of a tool's parameters, in order."""
        return list(_properties(self._schemas.get(name)))

    def of(self, name: str, key: str) -> list[Leaf]:
        """What an argument may be, null before all else."""
        schema = self._schemas.get(name, {})
        return sorted(leaves(_properties(schema).get(key), schema), key=lambda leaf: leaf.get("type") != "null")


def _properties(schema: Any) -> Mapping[str, Any]:
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def leaves(schema: Any, root: Any, depth: int = 0) -> list[Leaf]:
    """The schemas that a schema has to choose from; references are looked up in ``root``."""
    if not isinstance(schema, Mapping):
        return [{}]
    if isinstance(schema.get("$ref"), str) and depth < _DEEPEST:
        return leaves(_referred(schema["$ref"], root), root, depth + 1)
    for among in ("anyOf", "oneOf"):
        if isinstance(schema.get(among), list) and depth < _DEEPEST:
            return [leaf for one in schema[among] for leaf in leaves(one, root, depth + 1)]
    if isinstance(schema.get("type"), list) and listed_values(schema) is None:
        return [{**schema, "type": name} for name in schema["type"]]
    return [schema]


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
