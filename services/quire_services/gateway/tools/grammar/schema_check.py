"""Schema check: whether llguidance can hold a model to a tool's schema, asked before a grammar is made of it.

Clients send schemas that no grammar can say whole. For tools that are not strict these are no reason to refuse: what
is not known in them says nothing, and a schema that makes no sense at all binds nothing. A strict tool's must be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache

from quire_services.gateway.tools.formats.tool_format import CallBody

from .argument_rules import ArgumentRules
from .lark_rules import LarkRules
from .schemas import Schema, parameters_of


class SchemaInvalid(ValueError):
    """The schema of a strict tool that cannot be one.

    Attributes:
        name: of the tool.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"the parameters of the strict tool {name!r} cannot be held to: {message}")
        self.name = name


def unbound_tools(functions: Iterable[Schema], body: CallBody, strict: bool = True) -> frozenset[str]:
    """Names of the tools that cannot be held to their schemas in calls that are written so. ``strict``: also those that
    do not say that they are strict are to be held to theirs. Raises SchemaInvalid."""
    unbound = set()
    for function in functions:
        if (function.get("strict") or strict) and (problem := _problem(json.dumps(function), body)):
            if function.get("strict"):
                raise SchemaInvalid(function["name"], problem)
            unbound.add(function["name"])
    return frozenset(unbound)


@lru_cache(maxsize=4096)
def _problem(function: str, body: CallBody) -> str:
    """Why a tool cannot be held to its schema, empty if it can. (Agents send the same tools again and again.)"""
    from llguidance import LLMatcher

    rules, given = LarkRules({}), json.loads(function)
    try:
        whole = rules.json(parameters_of(given), not given.get("strict"))  # not all formats write arguments as JSON
        grammar = rules.text(f"{whole} | {ArgumentRules(rules, strict=True).call(body, given)}")
    except (TypeError, ValueError, AttributeError, RecursionError):
        return "it is no JSON schema"
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return _reason(messages[0]) if failed else ""


def _reason(message: str) -> str:
    """What llguidance says of a schema, without the place in the grammar."""
    said = message.partition("schema: ")[2] or message
    return said.partition("\n")[0]
