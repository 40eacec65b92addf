"""Random JSON schemas, seeded: the kinds that clients send, nested in each other."""

from __future__ import annotations

import random
from typing import Any

NAMES = ("id", "name", "kind", "tags", "size", "when", "a b", "café", "x_1")
PATTERNS = ("^[A-Z]{2,4}-[0-9]{1,3}$", "^(red|green|blue)$", "[0-9]+", "^\\w+@\\w+\\.com$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")
VALUES = ("a", "b c", 'd"e', 1, 2.5, None, True, [1], {"k": "v"})


def random_object(seed: int) -> dict[str, Any]:
    """A schema of objects, with definitions of its own where it refers to some."""
    chance = random.Random(seed)
    schema = _object(chance, 3)
    if chance.random() < 0.3:
        schema["$defs"] = {"leaf": _any(chance, 0), "node": _node()}
        schema["properties"]["of_leaf"] = {"$ref": "#/$defs/leaf"}
        schema["properties"]["of_node"] = {"$ref": "#/$defs/node"}
    return schema


def _node() -> dict[str, Any]:
    """A schema that refers to itself."""
    following = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
    return {"type": "object", "properties": {"v": {"type": "boolean"}, "next": following}, "required": ["v"]}


def _any(chance: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_text, _number, _listed, _simple]
    return chance.choice([*kinds, *([_object, _array, _either, _both] if depth else [])])(chance, depth)


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    names = chance.sample(NAMES, chance.randint(1, 4))
    out: dict[str, Any] = {"type": "object", "properties": {name: _any(chance, depth - 1) for name in names}}
    if chance.random() < 0.8:
        out["required"] = chance.sample(names, chance.randint(0, len(names)))
    if chance.random() < 0.5:
        out["additionalProperties"] = chance.choice([False, True, {"type": "integer"}])
    return out


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "array", "items": _any(chance, depth - 1), "maxItems": chance.randint(1, 3)}
    if chance.random() < 0.5:
        out["minItems"] = chance.randint(0, out["maxItems"])
    if chance.random() < 0.2:
        out["prefixItems"] = [_any(chance, 0) for _ in range(chance.randint(1, out["maxItems"]))]
    return out


def _either(chance: random.Random, depth: int) -> dict[str, Any]:
    word = chance.choice(["anyOf", "anyOf", "oneOf"])
    return {word: [_any(chance, depth - 1) for _ in range(chance.randint(1, 3))]}


def _both(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"allOf": [_object(chance, depth - 1), _object(chance, 1)]}


def _text(chance: random.Random, _depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "string"}
    how = chance.randrange(4)
    if how == 0:
        out["pattern"] = chance.choice(PATTERNS)
    elif how == 1:
        out["format"] = chance.choice(FORMATS)
    elif how == 2:
        out |= {"minLength": chance.randint(0, 3), "maxLength": chance.randint(3, 9)}
    return out


def _number(chance: random.Random, _depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {"type": chance.choice(["integer", "number"])}
    least = chance.randint(-50, 50)
    if chance.random() < 0.7:
        out |= {chance.choice(["minimum", "exclusiveMinimum"]): least, "maximum": least + chance.randint(2, 90)}
    if chance.random() < 0.2:
        out["multipleOf"] = chance.choice([1, 2, 5])
    return out


def _listed(chance: random.Random, _depth: int) -> dict[str, Any]:
    if chance.random() < 0.3:
        return {"const": chance.choice(VALUES)}
    return {"enum": chance.sample(VALUES, chance.randint(1, 4))}


def _simple(chance: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": chance.choice(["boolean", "null", ["string", "null"], ["integer", "boolean"]])}
