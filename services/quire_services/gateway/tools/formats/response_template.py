"""Response templates: the format that a tokenizer itself declares, as transformers 5 has it (``response_template``).

It says by which literals and patterns an answer is to be taken apart. What can be said as a ``ToolFormat`` is; of
others (patterns that are more than literals, dialects of JSON) nothing is known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .tool_format import CallForm, NamedCall, ObjectCall, Region, TaggedCall, ToolFormat

DECLARED = "response_template"
_REASONING_FIELDS = ("thinking", "reasoning_content", "reasoning")
_GROUP = re.compile(r"\(\?P<(\w+)>[^()]*\)")
_SPACES = re.compile(r"\\[sn][*+?]*")
_META = re.compile(r"(?<!\\)[.*+?^$()\[\]{}|]")
_PLACE = re.compile(r"\{(?:content\.)?(\w+)\}")


def declared_format(template: Any) -> ToolFormat | None:
    """The format that a response template declares; None if it is more than formats can say."""
    declared = template.get("fields") if isinstance(template, Mapping) else None
    if not isinstance(declared, Mapping) or not isinstance(declared.get("tool_calls"), Mapping):
        return None
    try:
        form = _form(declared["tool_calls"])
        regions = [_region(kind, declared[name]) for name, kind in _kinds() if _opens(declared.get(name))]
    except (KeyError, TypeError, ValueError, re.error):
        return None
    return ToolFormat(DECLARED, (form,), tuple(regions))


def _kinds() -> list[tuple[str, str]]:
    return [*((name, "reasoning") for name in _REASONING_FIELDS), ("content", "content")]


def _opens(field: Any) -> bool:
    return isinstance(field, Mapping) and ("open" in field or "open_pattern" in field)


def _region(kind: Any, field: Mapping[str, Any]) -> Region:
    return Region(kind, _one(field, "open"), tuple(_all(field, "close")))


def _form(field: Mapping[str, Any]) -> CallForm:
    """The way to write calls. Raises ValueError for one that formats cannot say."""
    close = _one(field, "close") if "close" in field or "close_pattern" in field else ""
    kind, extra = field.get("content", "text"), field.get("content_args") or {}
    function = (field.get("transform") or {})["function"]
    name = function.get("name") if isinstance(function, Mapping) else "{content}"
    if name == "{name}" and isinstance(function, Mapping) and function.get("arguments") == "{content}":
        before, after = _around_name(field["open_pattern"])
        if kind == "xml-inline":
            return CallForm(_tags(after, extra["tag_pattern"]), before, close, separator="\n")
        if kind == "json" and not extra:
            return CallForm(NamedCall(after), before, close)
    if kind != "json" or extra:
        raise ValueError("no plain JSON")
    body = _object(function)
    if field.get("transform_each"):
        return CallForm(
            body, section_open=f"{_one(field, 'open')}[", section_close=f"]{close}", separator=", ", several=True
        )
    return CallForm(body, _one(field, "open"), close, separator="\n")


def _object(function: Any) -> ObjectCall:
    if function == "{content}":
        return ObjectCall()
    keys = {part: _PLACE.fullmatch(function[part]) for part in ("name", "arguments")}
    if not keys["name"] or not keys["arguments"]:
        raise ValueError("not two keys of one object")
    return ObjectCall(keys["name"][1], keys["arguments"][1])


def _around_name(pattern: str) -> tuple[str, str]:
    """The literals before and after the name in a pattern."""
    parts = _GROUP.split(pattern)
    if len(parts) != 3 or parts[1] != "name":
        raise ValueError("no pattern with a name")
    return _literal(parts[0]), _literal(parts[2])


def _tags(after_name: str, pattern: str) -> TaggedCall:
    parts = _GROUP.split(pattern)
    if len(parts) != 5 or (parts[1], parts[3]) != ("key", "value"):
        raise ValueError("no pattern with a key and a value")
    return TaggedCall(after_name, *map(_literal, (parts[0], parts[2], parts[4])))


def _one(field: Mapping[str, Any], name: str) -> str:
    found = _all(field, name)
    if len(found) != 1 or not found[0]:
        raise ValueError("not one literal")
    return found[0]


def _all(field: Mapping[str, Any], name: str) -> list[str]:
    if f"{name}_pattern" in field:
        return [_literal(field[f"{name}_pattern"])]
    found = field[name]
    return [found] if isinstance(found, str) else list(found)


def _literal(pattern: str) -> str:
    """The literal that a pattern is, any whitespace in it as a line's end. Raises ValueError for other patterns."""
    text = _SPACES.sub("\n", pattern)
    if _META.search(text):
        raise ValueError("more than a literal")
    return re.sub(r"\\(.)", r"\1", text)
