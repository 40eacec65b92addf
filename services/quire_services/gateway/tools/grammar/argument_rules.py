"""Argument rules: the name and the arguments of a call as rules, in each of the ways that formats know."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from quire_services.gateway.tools.formats.tool_format import CallBody, NamedCall, ObjectCall, PythonCall, TaggedCall
from quire_services.gateway.tools.parser.parameter_types import is_text, leaves, listed_values

from .lark_rules import LarkRules, lark_string, pattern
from .schemas import ANY_OBJECT, lists_properties, parameters_of, within

_KEY = r"/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"  # of any argument
_ID = "/[A-Za-z0-9]{9}/"  # the ids of the only family that writes some


class ArgumentRules:
    """Rules for calls.

    Args:
        strict: arguments are held to the schemas of all tools, not only of those that say they are strict.
        unbound: names of tools whose arguments are held to no schema.
    """

    def __init__(self, rules: LarkRules, strict: bool, unbound: Collection[str] = ()) -> None:
        self._rules = rules
        self._strict = strict
        self._unbound = unbound

    def call(self, body: CallBody, function: Mapping[str, Any]) -> str:
        """An expression for a call of ``function``, without what stands around it."""
        name, rules = str(function["name"]), self._rules
        strict = bool(function.get("strict"))
        bound = (strict or self._strict) and name not in self._unbound
        schema = parameters_of(function) if bound else dict(ANY_OBJECT)
        match body:
            case ObjectCall():
                keys = (_json(body.name), ":", _json(name), ",", _json(body.arguments), ":")
                end = [rules.tokens(",", _json(body.id), ":"), f'"\\"" {_ID} "\\""'] if body.id else []
                return " ".join([rules.tokens("{", *keys), rules.json(schema, not strict), *end, rules.tokens("}")])
            case NamedCall():
                identity = f"{rules.literal(body.before_id)} {_ID}" if body.before_id else ""
                if body.before_number:
                    identity = f"{lark_string(body.before_number)} /[0-9]{{1,2}}/"
                head = f"{lark_string(body.prefix + name)} {identity} {rules.literal(body.before_arguments)}"
                return f"{head} {rules.tokens()} {rules.json(schema, not strict)} {rules.tokens()}"
            case TaggedCall():
                tags = self._tags(body, schema, not strict) if lists_properties(schema) else self._any_tags(body)
                return f"{lark_string(name)} {rules.literal(body.after_name)} {tags}"
            case PythonCall():
                listed = lists_properties(schema)
                keywords = self._keywords(schema, not strict) if listed else self._any_keywords()
                return f"{lark_string(f'{name}(')} {keywords} {rules.tokens(')')}"

    def _any_tags(self, body: TaggedCall) -> str:
        head = f"{self._rules.exact(body.key_open)} {_KEY} {self._rules.exact(body.key_close)}"
        return f"({head} {self._any_text(body, '/(?s:.*)/')})*"

    def _any_text(self, body: TaggedCall, text: str) -> str:
        """A text that a closing tag ends, and the tag."""
        inner = self._rules.terminal(f"{text} & ~/(?s:.*){pattern(body.value_close.strip())}(?s:.*)/")
        return self._rules.until(body.value_close, inner)

    def _any_keywords(self) -> str:
        one = self._rules.rule(f'{_KEY} "=" {self._rules.json({})}')
        return f"({one} ({self._rules.tokens(',')} {one})*)?"

    def _tags(self, body: TaggedCall, schema: Mapping[str, Any], lenient: bool) -> str:
        parts = []
        for key, one in _properties(schema).items():
            head = self._rules.exact(f"{body.key_open}{key}{body.key_close}")
            rule = self._rules.rule(f"{head} {self._tagged_value(body, one, schema, lenient)}")
            parts.append(rule if key in _required(schema) else f"{rule}?")
        return " ".join(parts)

    def _tagged_value(self, body: TaggedCall, one: Any, root: Mapping[str, Any], lenient: bool) -> str:
        """An argument with its closing tag: a string as it is, anything else as JSON."""
        rules, found = self._rules, []
        tag = body.value_close.strip()
        before, _, after = body.value_close.partition(tag)
        close = f"{rules.exact(before + tag)} {rules.literal(after)}"
        for leaf in leaves(one, root):
            values = listed_values(leaf)
            if values is not None:
                spelled = (value if isinstance(value, str) else json.dumps(value) for value in values)
                found.append(f"({' | '.join(map(lark_string, spelled))}) {close}")
            elif is_text(leaf):
                found.append(self._any_text(body, _text(leaf)))
            else:
                found.append(f"{rules.json(within(leaf, root), lenient)} {close}")
        return rules.rule(" | ".join(found))

    def _keywords(self, schema: Mapping[str, Any], lenient: bool) -> str:
        """Keyword arguments in the order of the schema, with commas between those that are there."""
        rest_first, rest = "", ""  # what may follow where nothing stands before it, and where something does
        for key, one in reversed(_properties(schema).items()):
            argument = self._rules.rule(f"{lark_string(f'{key}=')} {self._python_value(one, schema, lenient)}")
            first, next_one = f"{argument} {rest}", f"{self._rules.tokens(',')} {argument} {rest}"
            if key in _required(schema):
                rest_first, rest = first, next_one
            else:
                rest_first = f"({first}) | ({rest_first})" if rest_first else f"({first})?"
                rest = f"({next_one}) | ({rest})" if rest else f"({next_one})?"
            rest_first, rest = self._rules.rule(rest_first), self._rules.rule(rest)
        return rest_first

    def _python_value(self, one: Any, root: Mapping[str, Any], lenient: bool) -> str:
        rules, found = self._rules, []
        for leaf in leaves(one, root):
            values, kind = listed_values(leaf), leaf.get("type")
            if values is None and kind == "boolean":
                found.append('("True" | "False")')
            else:
                found.append('"None"' if values is None and kind == "null" else rules.json(within(leaf, root), lenient))
        return rules.rule(" | ".join(found))


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    return dict(schema.get("properties") or {})


def _required(schema: Mapping[str, Any]) -> list[str]:
    return list(schema.get("required") or ())


def _text(one: Mapping[str, Any]) -> str:
    """A terminal's expression for a string without quotes: of its length and pattern, if the schema says."""
    least, most = one.get("minLength", 0), one.get("maxLength", "")
    text = f"/(?s:.){{{least},{most}}}/" if least or most != "" else "/(?s:.*)/"
    if isinstance(given := one.get("pattern"), str):
        head = "" if given.startswith("^") else "(?s:.*)"
        tail = "" if given.endswith("$") and not given.endswith(r"\$") else "(?s:.*)"
        inner = given.removeprefix("^").removesuffix("$" if not tail else "").replace("/", r"\/")
        text += f" & /{head}({inner}){tail}/"
    return text
