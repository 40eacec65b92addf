"""The page of ``quire top``: one reading of the pool, set for a terminal of any size.

What a terminal has no place for is left out, in this order: rows of tables, which say how many more there are, rows of
the picture, then the end of the page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.text import Text

from quire_proto.wire.publication_ids import prompt_id
from quire_services.config.input_files import one_line

from .pool_picture import KINDS, charged_counts, marked_counts, pool_rows
from .pool_reader import PoolReading

LEAST_PICTURE_ROWS, MOST_TABLE_ROWS = 4, 8
STATES = ("free", "held", "cached", "quarantined")
_BOLD, _DIM, _ALARM = "bold", "bright_black", "bold red"


@dataclass(frozen=True, slots=True)
class TopView:
    """What the page is made of.

    Attributes:
        reading: the latest one; None before there is any.
        before: an earlier one, for rates.
        engines: rows of the admin API, by engine's name; empty where it is not asked.
        notes: what a person must know besides, such as that no kvstore answers.
    """

    reading: PoolReading | None
    before: PoolReading | None = None
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def top_json(view: TopView) -> dict[str, Any]:
    """The page's numbers as plain JSON values."""
    reading = view.reading
    assert reading is not None, "there is something to tell"
    stats, charged = reading.stats, charged_counts(reading.cells, reading.accounts)
    steps = reading.steps_per_s(view.before)
    return {
        "time": time.time(),
        "boot": stats.boot.hex(),
        "uptime_s": stats.uptime_ms / 1000,
        "model": stats.layout.model,
        "block_size": stats.layout.block_size,
        "block_bytes": stats.layout.block_bytes,
        "blocks": {"total": stats.num_blocks, **reading.counts, **marked_counts(reading.cells)},
        "sequences": sum(session.sequences for session in stats.sessions),
        "claims": stats.claims,
        "waits": stats.waits,
        "tenants": [{**asdict(row), "charged": charged.get(row.tenant, 0)} for row in reading.tenants],
        "sessions": [
            {**asdict(session), "steps_per_s": steps.get((session.name, session.pid))} for session in stats.sessions
        ],
        "engines": list(view.engines.values()),
        "publications": [
            {"id": one.id, "domain": one.domain, "state": one.state, "generation": one.generation}
            for one in stats.publications
        ],
        "rates": reading.rates(view.before),
    }


def top_page(view: TopView, width: int, height: int) -> list[Text]:
    """The lines of the page, none longer than ``width`` and no more than ``height`` of them."""
    notes = [Text(f" {one_line(note)}", _ALARM) for note in view.notes]
    if view.reading is None:
        return _cut([*notes, Text(" q quits", _DIM)], width, height)
    head, legend, foot = _head(view, view.reading), _legend(), [*notes, Text(" q quits", _DIM)]
    rows = _tables(view, view.reading)
    fixed = len(head) + 1 + len(foot)
    most = MOST_TABLE_ROWS
    while most > 1 and fixed + LEAST_PICTURE_ROWS + sum(_height(table, most) for table in rows) > height:
        most -= 1
    tables = [line for table in rows for line in _set(table, most)]
    room = max(1, height - fixed - len(tables))
    picture, each = pool_rows(view.reading.cells, width, room)
    if each > 1:
        legend.append(f" {each:,} blocks each", _DIM)
    drawn = [_picture_row(row.tolist()) for row in picture]
    return _cut([*head, *drawn, legend, *tables, *foot], width, height)


def _cut(lines: list[Text], width: int, height: int) -> list[Text]:
    for line in lines:
        line.no_wrap = True
        line.truncate(width)
    return lines[:height]


def _head(view: TopView, reading: PoolReading) -> list[Text]:
    stats, marked = reading.stats, marked_counts(reading.cells)
    up = int(stats.uptime_ms / 1000)
    title = f" quire top  {one_line(stats.layout.model)[:30]}  boot {stats.boot.hex()[:8]}"
    title += f"  up {up // 3600}:{up // 60 % 60:02}:{up % 60:02}"
    blocks = Text(f" {stats.num_blocks:,} blocks ", _BOLD)
    for state in STATES:
        count = reading.counts[state]
        if state == "quarantined":
            blocks.append(f" {count:,} {state}", _ALARM if count else "")
        else:
            blocks.append(f" {count:,} {state} {count / stats.num_blocks:.0%} ")
    sequences = sum(session.sequences for session in stats.sessions)
    more = f" {marked['shared']:,} shared  {marked['claimed']:,} claimed  {marked['published']:,} published"
    more += f"  {sequences:,} sequences  {stats.claims:,} claims  {stats.waits:,} waiting"
    return [Text(title, _BOLD), blocks, Text(more), Text(_rates(reading.rates(view.before)))]


def _rates(rates: dict[str, float]) -> str:
    if not rates:
        return " a second: -"
    prompt = rates["prompt_tokens"]
    cached = f" ({rates['hit_tokens'] / prompt:.0%} cached)" if prompt else ""
    return (
        f" a second: {prompt:,.0f} prompt tokens{cached}  {rates['computed_tokens']:,.0f} computed"
        f"  {rates['steps']:,.0f} steps  {rates['evictions']:,.0f} evictions"
    )


def _legend() -> Text:
    legend = Text(" ")
    for kind in KINDS:
        legend.append(f"{kind.letter}{kind.name} ", kind.style)
    return legend


def _picture_row(kinds: list[int]) -> Text:
    row = Text()
    start = 0
    for place in range(1, len(kinds) + 1):  # a run of one kind is one piece of text
        if place == len(kinds) or kinds[place] != kinds[start]:
            kind = KINDS[kinds[start]]
            row.append(kind.letter * (place - start), kind.style)
            start = place
    return row


# --- tables --------------------------------------------------------------------------------------------------------


def _tables(view: TopView, reading: PoolReading) -> list[list[str]]:
    """Tables as lines, the first of each its titles; without those that have no rows."""
    found = [_sessions(view, reading), _tenants(reading), _publications(reading)]
    return [table for table in found if len(table) > 1]


def _height(table: list[str], most: int) -> int:
    return 1 + min(len(table) - 1, most)


def _set(table: list[str], most: int) -> list[Text]:
    """A table in so many rows, of which the last says what is left out."""
    rows = table[1:]
    if len(rows) > most:
        rows = [*rows[: most - 1], f" and {len(rows) - most + 1} more"]
    return [Text(table[0], f"{_BOLD} underline"), *(Text(row) for row in rows)]


def _name(text: str, width: int) -> str:
    name = one_line(text)
    return name if len(name) <= width else name[: width - 3] + "..."


def _sessions(view: TopView, reading: PoolReading) -> list[str]:
    steps = reading.steps_per_s(view.before)
    form = " {:<18}{:<10}{:>10}{:>10}{:>10}{:>10}{:>10}"
    lines = [form.format("engine", "state", "sequences", "blocks", "steps/s", "waiting", "tokens/s")]
    for one in sorted(reading.stats.sessions, key=lambda session: session.name):
        row = view.engines.get(one.name, {})
        speed = steps.get((one.name, one.pid))
        lines.append(
            form.format(
                _name(one.name, 17),
                one.state,
                f"{one.sequences:,}",
                f"{one.blocks:,}",
                "-" if speed is None else f"{speed:,.1f}",
                row.get("waiting", "-"),
                row.get("tokens_per_s", "-"),
            )
        )
    return lines


def _tenants(reading: PoolReading) -> list[str]:
    form = " {:<18}{:>9}{:>9}{:>9}{:>10}{:>10}{:>13}"
    lines = [form.format("tenant", "held", "cached", "limit", "guarantee", "requests", "from cache")]
    shown = [row for row in reading.tenants if row.held or row.cached or row.sequences or row.limit or row.guarantee]
    for row in sorted(shown, key=lambda row: -(row.held + row.cached)):
        hits = f"{row.cached_tokens / row.prompt_tokens:.0%}" if row.prompt_tokens else "-"
        quota = [f"{number:,}" if number else "-" for number in (row.limit, row.guarantee)]
        cells = (_name(row.tenant, 17), f"{row.held:,}", f"{row.cached:,}", *quota, f"{row.sequences:,}", hits)
        lines.append(form.format(*cells))
    return lines


def _publications(reading: PoolReading) -> list[str]:
    form = " {:<30}{:<30}{:>18}"
    rows = sorted(reading.stats.publications, key=lambda one: one.id)
    lines = [form.format(_name(prompt_id(one.id), 29), _name(one.domain, 29), one.state) for one in rows]
    return [form.format("publication", "domain", "state"), *lines]
