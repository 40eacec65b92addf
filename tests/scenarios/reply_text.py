"""A reply as text: every field that is not its default, in the order of the protocol. What is left out fails a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import count, groupby
from typing import Any, get_args, get_type_hints

from quire_kvstore.sessions.sequence import GIVEN_BACK
from quire_proto import messages as m
from quire_proto.wire.codec import Whole
from quire_proto.wire.u32 import unpack_rows, unpack_u32
from tests.scenarios.words import ScenarioError

CODES = ("OK", "NO_SUCH", "CONFLICT", "NO_SPACE", "UNPUBLISHED", "RETRY", "CLAIMED")


def reply_text(reply: Any, chain: bytes = b"") -> str:
    """A reply, or an item's result. ``chain``: digests of the asker's prompt; those in the reply are told by index."""
    hints = get_type_hints(type(reply), include_extras=True)
    words = [] if "code" in hints else ["OK"]
    for field in fields(reply):
        value = getattr(reply, field.name)
        if field.name == "code":
            words.append(CODES[value])
        elif field.name == "codes":
            words = [codes(value)]
        elif hints[field.name] is not bytes and (value != _default(field) or _always(reply, field.name)):
            words.append(f"{field.name}={_value(hints[field.name], value, chain)}")
    return " ".join(words)


def selected(rows: Mapping[str, int], names: Sequence[str]) -> str:
    """Some of many numbers, by name."""
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise ScenarioError(f"no number {unknown[0]!r}: there are {', '.join(rows)}")
    return " ".join(f"{name}={rows[name]}" for name in names)


def codes(value: bytes) -> str:
    """Codes of items."""
    return ",".join(CODES[code] for code in value)


def ranges(numbers: Iterable[int]) -> str:
    """``0-3,7``; what was given back is ``gone``."""
    counter = count()
    runs = [list(run) for _, run in groupby(numbers, key=lambda number: number - next(counter))]
    return ",".join(_number(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "none"


def _number(number: int) -> str:
    return "gone" if number == GIVEN_BACK else str(number)


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _always(reply: Any, name: str) -> bool:
    """``computed=0`` is what one wants to read."""
    return isinstance(reply, m.Allocated) and name == "computed" and reply.code in (m.OK, m.CLAIMED)


def _value(hint: Any, value: Any, chain: bytes) -> str:
    if isinstance(value, bytes):
        return _packed(next(arg.size for arg in get_args(hint) if isinstance(arg, Whole)), value, chain)
    if isinstance(value, dict):
        return ",".join(f"{name}:{_value(None, item, chain)}" for name, item in value.items())
    if isinstance(value, tuple):
        return ",".join("/".join(str(getattr(row, f.name)) for f in fields(row)) for row in value)
    return str(value)


def _packed(size: int, value: bytes, chain: bytes) -> str:
    if size == 32:
        known = [chain[i : i + 32] for i in range(0, len(chain), 32)]
        mine = [value[i : i + 32] for i in range(0, len(value), 32)]
        return ranges(known.index(d) for d in mine) if set(mine) <= set(known) else f"others'({len(mine)})"
    if size == 16:
        return ",".join(f"#{copy}:{src}>{dst}:{slots}" for copy, src, dst, slots in unpack_rows(value, 4))
    if size == 4:
        return ranges(unpack_u32(value))
    return ",".join(":".join(map(str, row)) for row in unpack_rows(value, size // 4))
