"""Items of a step: many lines of a scenario in one message, and the result of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32

PACKED = {
    "releases": 1,
    "copies_done": 1,
    "swaps": 3,
    "fills": 2,
    "completed": 3,
    "left_behind": 2,
    "extends": 2,
}  # numbers a row
SECTIONS = (
    "releases",
    "copies_done",
    "swaps",
    "fills",
    "seals",
    "completed",
    "left_behind",
    "forks",
    "extends",
    "allocates",
)


@dataclass(eq=False)
class Item:
    """One item of a step: its rows in a section, and what the engine does with their results, which gives their text.

    ``op``: the op that says the same in a message of its own, if there is one; ``digest``: of a completed block.
    """

    section: str
    rows: Sequence[Any]
    told: Callable[[Any, m.Stepped], str]
    op: str = ""
    digest: bytes = b""


def step_of(items: list[Item]) -> m.Step:
    """One message with all items."""
    fields: dict[str, Any] = {}
    for section in SECTIONS:
        width = PACKED.get(section, 0)
        rows = [row for item in items if item.section == section for row in item.rows]
        if width > 1:
            rows = [number for row in rows for number in row]
        if rows:
            fields[section] = pack_u32(rows) if width else tuple(rows)
    return m.Step(**fields, completed_digests=b"".join(item.digest for item in items))


def results_of(items: list[Item], reply: m.Stepped) -> list[str]:
    """What each item was told, in the order of the items; the engine acts on it in the order of the sections."""
    texts: dict[Item, str] = {}
    for section in SECTIONS:
        results = getattr(reply, section)
        for item in items:
            if item.section == section:
                texts[item] = item.told(results[: len(item.rows)], reply)
                results = results[len(item.rows) :]
        assert not results, f"{section}: more results than items"
    return [texts[item] for item in items]


def extended(code: int, number: int, reply: m.Stepped) -> m.Extended:
    """The result of one item of ``extends``, as if it had been asked for alone."""
    if code != m.OK:
        short = next((s for s in reply.shortages if s.sequence == number), None)
        return m.Extended(code, missing=short.missing, scope=short.scope, retry_after_ms=short.retry_after_ms,
                          account=short.account) if short else m.Extended(code)  # fmt: skip
    rows = [(index, block) for sequence, index, block in unpack_rows(reply.blocks, 3) if sequence == number]
    blocks = [block for _, block in rows]
    copies = [row for row in unpack_rows(reply.copies, 4) if row[2] in blocks]
    return m.Extended(
        code,
        first=rows[0][0] if rows else 0,
        blocks=pack_u32(blocks),
        copies=pack_u32(number for row in copies for number in row),
        scrub=pack_u32(block for block in unpack_u32(reply.scrub) if block in blocks),
    )
