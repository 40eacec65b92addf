"""Tables for people: a line of titles, and a line for each row under them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from quire_kv import Publication


def text_table(columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table. ``columns``: title -> how its cells are set, as in format strings (``<28``, ``>8``)."""
    lines = [tuple(columns), *rows]
    return "\n".join(
        "".join(format(str(cell), form) for cell, form in zip(line, columns.values(), strict=True)) for line in lines
    )


def prompts_table(publications: Iterable[Publication]) -> str:
    """Published prompts, each with its length instead of its tokens."""
    columns = {"publication": "<28", "domain": "<24", "state": "<10", "tokens": ">8"}
    return text_table(columns, [(p.id, p.domain, p.state, len(p.tokens) // 4) for p in publications])
