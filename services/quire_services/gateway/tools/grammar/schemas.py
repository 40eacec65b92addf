"""Schemas: a tool's parameters as a grammar takes them.

An object that lists its properties and does not say whether there may be others has no others: that is what clients
mean, and a model that may add some does. What such a grammar allows, the schema allows as well. Where schemas are
combined, what one leaves open another may fill, so that nothing is closed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .annotations import bare
from .equivalents import equivalent

Schema = Mapping[str, Any]
_COMBINED = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "dependentSchemas")
_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions")
_SINGLE = ("items", "additionalProperties")
ANY_OBJECT: Schema = {"type": "object"}


def parameters_of(function: Schema) -> dict[str, Any]:
    """The schema of a function's arguments."""
    given = equivalent(bare(function.get("parameters") or {}))
    schema = closed(given)
    if not given.get("properties") and not any(key in given for key in (*_COMBINED, *_OPEN)):
        schema |= {"properties": {}, "additionalProperties": False}
    return {"type": "object", **schema}


def lists_properties(schema: Schema) -> bool:
    """Whether an object's properties are those that it lists, each by itself."""
    return "properties" in schema and not any(key in schema for key in _COMBINED)


def closed(schema: Any) -> Any:
    """The schema with no further properties where it does not say, unless it combines schemas."""
    return schema if _combines(schema) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    for key in _LISTS:
        if isinstance(out.get(key), list):
            out[key] = [_closed(one) for one in out[key]]
    for key in _MAPS:
        if isinstance(out.get(key), Mapping):
            out[key] = {name: _closed(one) for name, one in out[key].items()}
    for key in _SINGLE:
        if isinstance(out.get(key), Mapping):
            out[key] = _closed(out[key])
    return {**out, "additionalProperties": False} if _closable(out) else out


def _closable(schema: Schema) -> bool:
    """Whether an object that has none but the listed properties can be one of this schema."""
    listed = schema.get("properties")
    if not listed or not isinstance(listed, Mapping) or any(key in schema for key in (*_COMBINED, *_OPEN)):
        return False
    return "minProperties" not in schema and set(schema.get("required") or ()) <= set(listed)


def _combines(schema: Any) -> bool:
    """Whether more than one schema speaks of the properties of one object, anywhere in it."""
    if isinstance(schema, list):
        return any(map(_combines, schema))
    if not isinstance(schema, Mapping):
        return False
    among = schema.get("allOf")
    here = sum(key in schema for key in ("properties", "$ref", "anyOf", "oneOf", "if", "allOf"))
    if here > 1 or (isinstance(among, list) and len(among) > 1):
        return True
    return any(map(_combines, schema.values()))


def within(schema: Any, root: Schema) -> Any:
    """A schema that stands within another, by itself: with the definitions that it may refer to."""
    defined = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**defined, **schema} if isinstance(schema, Mapping) else schema
