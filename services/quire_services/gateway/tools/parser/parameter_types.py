"""Parameter types: the types that a tool's schema allows for an argument, to read arguments that are not JSON.

Where a format writes a string without quotes, only the schema tells ``5`` from ``"5"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from . import python_values

Tool = Mapping[str, Any]
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

    def of(self, name: str, key: str) -> tuple[str, ...]:
        """The types that an argument may have, null before others; none if the schema does not say."""
        schema = self._schemas.get(name, {})
        found = dict.fromkeys(types_of(_properties(schema).get(key), schema))
        return tuple(sorted(found, key=lambda one: one != "null"))


def _properties(schema: Any) -> Mapping[str, Any]:
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def types_of(schema: Any, root: Any, depth: int = 0) -> Iterable[str]:
    """The types that a schema names, in its order; references are looked up in ``root``."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    if isinstance(schema.get("$ref"), str):
        yield from types_of(referred(schema["$ref"], root), root, depth + 1)
    given = schema.get("type")
    yield from [given] if isinstance(given, str) else [one for one in given or () if isinstance(one, str)]
    if not given:
        for one in [schema["const"]] if "const" in schema else schema.get("enum") or ():
            yield from (name for name, kinds in {"string": (str,), **_KINDS}.items() if type(one) in kinds)
    for among in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(among) or ():
            yield from types_of(choice, root, depth + 1)


def referred(reference: str, root: Any) -> Any:
    """What a reference within a schema points to; None if that is nothing."""
    found = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def text_as_json(text: str, types: tuple[str, ...]) -> str:
    """An argument that is written without quotes, as JSON of the first of these types that it can be."""
    written = text.strip()
    found = _loaded(written)
    for name in types or tuple(_KINDS):
        if name == "string":
            break
        if name == "integer" and isinstance(found, float) and found.is_integer():
            return json.dumps(int(found))
        if type(found) in _KINDS.get(name, ()):
            return python_values.literal_as_json(written)
    return json.dumps(text, ensure_ascii=False)


def _loaded(text: str) -> Any:
    """What a text says as JSON, or as Python writes the same; the text if it is neither."""
    try:
        return json.loads(python_values.literal_as_json(text)) if text[:1] not in ('"', "'") else text
    except ValueError:
        return text
