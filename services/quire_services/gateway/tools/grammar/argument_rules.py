"""Argument rules: the name and the arguments of a call as rules, in each of the ways that formats know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quire_services.gateway.tools.formats.tool_format import CallBody, NamedCall, ObjectCall, PythonCall, TaggedCall
from quire_services.gateway.tools.parser.parameter_types import types_of

from .lark_rules import LarkRules, lark_string, pattern
from .schemas import alternatives, parameters_of, within

_ID = "/[A-Za-z0-9]{9}/"  # the ids of the only family that writes some


class ArgumentRules:
    """Rules for calls.

    Args:
        bound: arguments are held to the schemas of all tools, not only of strict ones.
    """

    def __init__(self, rules: LarkRules, bound: bool) -> None:
        self._rules = rules
        self._bound = bound

    def call(self, body: CallBody, function: Mapping[str, Any]) -> str:
        """An expression for a call of ``function``, without what stands around it."""
        name, schema, rules = str(function["name"]), parameters_of(function, self._bound), self._rules
        match body:
            case ObjectCall():
                head = f'{{"{body.name}": {json.dumps(name, ensure_ascii=False)}, "{body.arguments}": '
                end = [lark_string(f', "{body.id}": "'), _ID, lark_string('"')] if body.id else []
                return " ".join([lark_string(head), rules.json(schema), *end, lark_string("}")])
            case NamedCall():
                identity = f"{rules.literal(body.before_id)} {_ID}" if body.before_id else ""
                if body.before_number:
                    identity = f"{lark_string(body.before_number)} /[0-9]{{1,2}}/"
                head = f"{lark_string(body.prefix + name)} {identity} {rules.literal(body.before_arguments)}"
                return f"{head} {rules.json(schema)}"
            case TaggedCall():
                return f"{lark_string(name)} {rules.literal(body.after_name)} {self._tags(body, schema)}"
            case PythonCall():
                return f"{lark_string(f'{name}(')} {self._keywords(schema)} {lark_string(')')}"

    def _tags(self, body: TaggedCall, schema: Mapping[str, Any]) -> str:
        parts = []
        for key, one in _properties(schema).items():
            head = self._rules.literal(f"{body.key_open}{key}{body.key_close}")
            rule = self._rules.rule(f"{head} {self._tagged_value(body, one, schema)}")
            parts.append(rule if key in _required(schema) else f"{rule}?")
        return " ".join(parts)

    def _tagged_value(self, body: TaggedCall, one: Any, root: Mapping[str, Any]) -> str:
        """An argument with its closing tag: a string as it is, anything else as JSON."""
        rules, found = self._rules, []
        tag = body.value_close.strip()
        close = rules.literal(body.value_close)
        for leaf in alternatives(one, root):
            values = [leaf["const"]] if "const" in leaf else leaf.get("enum")
            if values:
                spelled = (value if isinstance(value, str) else json.dumps(value) for value in values)
                found.append(f"({' | '.join(map(lark_string, spelled))}) {close}")
            elif leaf.get("type", "string") == "string":
                text = rules.terminal(f"{_text(leaf)} & ~/(?s:.*){pattern(tag)}(?s:.*)/")
                found.append(rules.until(body.value_close, text))
            else:
                found.append(f"{rules.json(within(leaf, root))} {close}")
        return rules.rule(" | ".join(found))

    def _keywords(self, schema: Mapping[str, Any]) -> str:
        """Keyword arguments in the order of the schema, with commas between those that are there."""
        rest_first, rest = "", ""  # what may follow where nothing stands before it, and where something does
        for key, one in reversed(_properties(schema).items()):
            argument = self._rules.rule(f"{lark_string(f'{key}=')} {self._python_value(one, schema)}")
            first, next_one = f"{argument} {rest}", f'", " {argument} {rest}'
            if key in _required(schema):
                rest_first, rest = first, next_one
            else:
                rest_first = f"({first}) | ({rest_first})" if rest_first else f"({first})?"
                rest = f"({next_one}) | ({rest})" if rest else f"({next_one})?"
            rest_first, rest = self._rules.rule(rest_first), self._rules.rule(rest)
        return rest_first

    def _python_value(self, one: Any, root: Mapping[str, Any]) -> str:
        types = tuple(types_of(one, root))
        if types == ("boolean",) and not {"const", "enum"} & set(one):
            return '("True" | "False")'
        return '"None"' if types == ("null",) else self._rules.json(within(one, root))


def _properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    return dict(schema.get("properties") or {})


def _required(schema: Mapping[str, Any]) -> list[str]:
    return list(schema.get("required") or ())


def _text(one: Mapping[str, Any]) -> str:
    """A terminal's expression for a string that is not lark_string: of its length and pattern, if the schema says."""
    least, most = one.get("minLength", 0), one.get("maxLength", "")
    text = f"/(?s:.){{{least},{most}}}/" if least or most != "" else "/(?s:.*)/"
    if isinstance(given := one.get("pattern"), str):
        head = "" if given.startswith("^") else "(?s:.*)"
        tail = "" if given.endswith("$") and not given.endswith(r"\$") else "(?s:.*)"
        inner = given.removeprefix("^").removesuffix("$" if not tail else "").replace("/", r"\/")
        text += f" & /{head}({inner}){tail}/"
    return text
