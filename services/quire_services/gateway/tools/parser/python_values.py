"""Python values: arguments that a model writes as Python does, as JSON.

Nothing is evaluated: of the parsed expression literals are taken, lists, tuples, dictionaries and signed numbers of
them, and the three words of JSON.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from .text_source import Reading, TextSource

_WORDS = {"true": True, "false": False, "null": None}
_OPENS, _CLOSES = "([{", ")]}"
_DEEPEST = 50
_KEY = re.compile(r"""\s*([^\s"'=()\[{][^"'=()\[{]*?)\s*=(?!=)""")


def argument(source: TextSource) -> Reading[tuple[str, bool]]:
    """The text of an argument, up to the comma or the parenthesis behind it, and whether there is one."""
    begin, held, depth, quote = source.at, source.held, 0, ""
    source.held = True
    while character := (yield from source.peek()):
        if quote:
            if character == "\\":
                source.at += 1
                if not (yield from source.peek()):
                    break
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in _OPENS:
            depth += 1
        elif not depth and character in ",)":
            source.held = held
            return source.text[begin : source.at], True
        elif character in _CLOSES:
            depth -= 1
        source.at += 1
    source.held = held
    return source.text[begin : source.at], False


def keyword(text: str) -> tuple[str, str]:
    """Key and value of an argument; the key is empty for one that has none."""
    found = _KEY.match(text)
    return (found[1], text[found.end() :].strip()) if found else ("", text.strip())


def literal_as_json(text: str) -> str:
    """A literal of Python or of JSON as JSON; what is neither is a string."""
    try:
        json.loads(text, parse_constant=_refuse)
        return text
    except (ValueError, RecursionError):
        pass
    try:
        found = _value(ast.parse(text, mode="eval").body, 0)
        return json.dumps(found, ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return json.dumps(text, ensure_ascii=False)


def _refuse(word: str) -> None:
    """Of the words that Python's reader takes for numbers and JSON does not know."""
    raise ValueError(word)


def _value(node: ast.expr, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError("too deep")
    match node:
        case ast.Constant(value=str() | int() | float() | bool() | None as found):
            return found
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as number)):
            return -number if isinstance(sign, ast.USub) else number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, depth + 1) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {_key(key): _value(value, depth + 1) for key, value in pairs}
        case _:
            raise ValueError("no literal")


def _key(node: ast.expr | None) -> str:
    found = _value(node, 0) if node is not None else None
    if not isinstance(found, str):
        raise ValueError("a key must be a string")
    return found
