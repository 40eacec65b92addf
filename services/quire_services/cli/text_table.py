"""Tables for people: a line of titles, and a line for each row under them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from quire_kv import Publication
from quire_proto.messages.query import WeightsInfo
from quire_proto.wire.publication_ids import prompt_id, variant_of


def text_table(columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table. ``columns``: title -> how its cells are set, as in format strings (``<28``, ``>8``)."""
    lines = [tuple(columns), *rows]
    return "\n".join(
        "".join(format(str(cell), form) for cell, form in zip(line, columns.values(), strict=True)) for line in lines
    )


def weights_table(weights: Iterable[WeightsInfo]) -> str:
    """Arenas of weights on a GPU as rows: key, state, how large, and who uses them."""
    columns = {"weights": "<14", "state": "<10", "memory": "<12", "bytes": ">18", "readers": ">8", "waiting": ">8"}
    columns |= {"writer": ">8"}
    rows = [
        (one.key[:6].hex(), one.state, one.arena or "-", one.size, one.readers, one.waiting, one.writer or "-")
        for one in weights
    ]
    return text_table(columns, rows)


def prompts_table(publications: Iterable[Publication]) -> str:
    """Published prompts, each variant with its length instead of its tokens."""
    columns = {"publication": "<28", "variant": "<12", "domain": "<24", "state": "<10", "tokens": ">8"}
    rows = [
        (prompt_id(p.id), variant_of(p.tokens), p.domain, p.state, len(p.tokens) // 4)
        for p in sorted(publications, key=lambda p: prompt_id(p.id))
    ]
    return text_table(columns, rows)
