"""The functions that the demo's agents have: as OpenAI's API takes them, and as they are carried out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema

from examples.demo.chat import Call


def count_letter(word: str, letter: str) -> dict[str, int]:
    """How often a letter occurs in a word."""
    return {"count": word.lower().count(letter.lower())}


def add_numbers(a: int, b: int) -> dict[str, int]:
    """The sum of two numbers."""
    return {"sum": a + b}


_FUNCTIONS: dict[str, Callable[..., dict[str, int]]] = {"count_letter": count_letter, "add_numbers": add_numbers}
_WORD = {"type": "string", "minLength": 1, "maxLength": 40}
_NUMBER = {"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "count_letter": {"word": _WORD, "letter": _WORD | {"maxLength": 1}},
    "add_numbers": {"a": _NUMBER, "b": _NUMBER},
}


def _schema(name: str) -> dict[str, Any]:
    properties = _PARAMETERS[name]
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": name, "description": function.__doc__, "parameters": _schema(name)},
    }
    for name, function in _FUNCTIONS.items()
]


def carried_out(call: Call) -> str:
    """What the function of this call returns, as JSON. Raises KeyError for a name that there is not, ValueError for
    arguments that are no JSON, and jsonschema's ValidationError for those that the schema does not allow."""
    arguments = json.loads(call.arguments)
    jsonschema.validate(arguments, _schema(call.name))
    return json.dumps(_FUNCTIONS[call.name](**arguments))
