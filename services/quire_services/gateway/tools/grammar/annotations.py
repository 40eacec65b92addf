"""Annotations: what a schema says beside its constraints, left out before a grammar is made of it.

Titles, descriptions, examples and whatever is no keyword of JSON Schema constrain nothing, and may be most of a schema:
a grammar's bounds are for what constrains. Names of properties are no keywords, and values in ``enum`` and ``const``
are no schemas. A ``format`` that JSON Schema does not define is an annotation as well, and so is the address of a
dialect that is not one of its drafts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCHEMAS = _words(  # whose value is a schema, or several
    "additionalItems additionalProperties contains else if items not propertyNames then unevaluatedItems"
    " unevaluatedProperties allOf anyOf oneOf prefixItems"
)
NAMED = _words("$defs definitions dependencies dependentSchemas patternProperties properties")
_VALUES = _words(
    "type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern format"
    " maxItems minItems uniqueItems maxContains minContains maxProperties minProperties required dependentRequired"
    " $ref $dynamicRef $recursiveRef $id id $anchor $dynamicAnchor $recursiveAnchor $schema x-guidance"
)
FORMATS = _words(
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference"
    " uuid uri-template json-pointer relative-json-pointer regex"
)
_DIALECT = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/20(?:19-09|20-12))/(?:hyper-)?schema#?")


def bare(schema: Any) -> Any:
    """The schema with what constrains alone."""
    return _bare(schema, frozenset(segment for ref in _references(schema) for segment in ref.split("/")))


def _bare(schema: Any, referred: frozenset[str]) -> Any:
    if isinstance(schema, list):
        return [_bare(one, referred) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in SCHEMAS:
            out[key] = _bare(value, referred)
        elif key in NAMED and isinstance(value, Mapping):
            out[key] = {name: _bare(one, referred) for name, one in value.items()}
        elif key in _VALUES or key in NAMED:
            out |= _constraint(key, value)
        elif key in referred and isinstance(value, dict | list):  # definitions in a place of a client's own
            out[key] = value
    return out


def _constraint(key: str, value: Any) -> dict[str, Any]:
    """A keyword as it constrains; nothing if it does not."""
    if key == "$schema":
        known = isinstance(value, str) and _DIALECT.fullmatch(value)
        scheme = "https" if known and "/" in known[1] else "http"
        return {key: f"{scheme}://json-schema.org/{known[1]}/schema"} if known else {}
    if (key == "format" and isinstance(value, str) and value not in FORMATS) or (key == "uniqueItems" and not value):
        return {}
    return {key: value}


def _references(schema: Any) -> Iterator[str]:
    """All references in it, wherever they stand."""
    level = [schema]
    while level:
        one = level.pop()
        if isinstance(one, Mapping):
            level += one.values()
            if isinstance(ref := one.get("$ref"), str):
                yield ref
        elif isinstance(one, list):
            level += one
