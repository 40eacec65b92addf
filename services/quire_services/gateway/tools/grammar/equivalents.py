"""Equivalents: what llguidance cannot take, said in keywords that it takes, where that means exactly the same.

Dictionaries with listed keys, what is unevaluated where nothing is combined, one of several types, bounds that hold
anyway: generators of schemas write these, and to refuse them would help nobody. What is left as it is may be refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .annotations import NAMED, SCHEMAS

_COMBINING = ("allOf", "anyOf", "oneOf", "if", "$ref", "$dynamicRef", "dependentSchemas", "dependencies")
_Schema = dict[str, Any]


def equivalent(schema: Any) -> Any:
    """A schema without annotations that means the same."""
    return _equivalent(schema, schema if isinstance(schema, Mapping) else {})


def _equivalent(schema: Any, root: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_equivalent(one, root) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: _Schema = {}
    for key, value in schema.items():
        if key in SCHEMAS:
            out[key] = _equivalent(value, root)
        elif key in NAMED and isinstance(value, Mapping):
            out[key] = {name: _equivalent(one, root) for name, one in value.items()}
        else:
            out[key] = value
    _one_of_types(out)
    _listed_names(out, root)
    _unevaluated(out)
    _bounds(out)
    return out


def _one_of_types(schema: _Schema) -> None:
    """One of several types: those that stand in one branch alone."""
    branches = schema.get("oneOf")
    if not isinstance(branches, list) or not all(isinstance(one, Mapping) and set(one) == {"type"} for one in branches):
        return
    types = [one["type"] if isinstance(one["type"], list) else [one["type"]] for one in branches]
    named = [name for several in types for name in set(map(str, several))]
    once = [name for name in named if named.count(name) == 1]
    if "anyOf" not in schema and once and not {"integer", "number"} <= set(named):
        del schema["oneOf"]
        schema["anyOf"] = [{"type": name} for name in once]


def _listed_names(schema: _Schema, root: Mapping[str, Any]) -> None:
    """A dictionary whose keys are listed is an object with such properties."""
    names = _resolved(schema.get("propertyNames"), root)
    if not isinstance(names, Mapping) or names.get("type", "string") != "string":
        return
    said = set(names) - {"type"}
    listed = [names["const"]] if said == {"const"} else names.get("enum")
    if not said:
        del schema["propertyNames"]
    elif said <= {"enum", "const"} and isinstance(listed, list) and "properties" not in schema:
        value = schema.get("additionalProperties", True)
        schema["properties"] = {name: value for name in listed if isinstance(name, str)}
        schema["additionalProperties"] = False
        del schema["propertyNames"]


def _resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """A schema, or the definition that it refers to."""
    ref = schema.get("$ref") if isinstance(schema, Mapping) and set(schema) == {"$ref"} else None
    kind, _, name = ref.removeprefix("#/").partition("/") if isinstance(ref, str) else ("", "", "")
    return root.get(kind, {}).get(name) if kind in ("$defs", "definitions") else schema


def _unevaluated(schema: _Schema) -> None:
    """Where nothing is combined, what is unevaluated is what is additional."""
    if "unevaluatedProperties" in schema and not any(key in schema for key in _COMBINING):
        schema.setdefault("additionalProperties", schema.pop("unevaluatedProperties"))
        schema.pop("unevaluatedProperties", None)


def _bounds(schema: _Schema) -> None:
    """Bounds that hold anyway say nothing."""
    if _whole(schema.get("minProperties")) <= len(schema.get("required") or ()):
        schema.pop("minProperties", None)
    if schema.get("uniqueItems") is True and "maxItems" in schema and _whole(schema["maxItems"]) <= 1:
        del schema["uniqueItems"]


def _whole(value: Any) -> float:
    return value if isinstance(value, int) else 0 if value is None else float("inf")
