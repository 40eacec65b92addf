"""Pictures use the words and figures of the code: a state that is renamed, or a figure measured anew, shows here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from quire_engine.attention.plan import build_plan
from quire_kvstore.blocks.pool import STATE_NAMES
from quire_kvstore.sessions import session
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sharing import claims
from quire_proto.gateway_link import Generate, Outputs
from quire_proto.messages import Step
from quire_proto.op_table import ALLOCATE, FORK, STEP
from quire_proto.wire.layout import Layout
from tests.support.repository import ROOT

CONCEPTS = ROOT / "docs" / "concepts"
KILLED = "killed engine: its blocks are back"


def picture(page: Path) -> str:
    """The first fenced block of a page."""
    return page.read_text().split("```")[1]


def missing(text: str, words: Iterable[str]) -> list[str]:
    """Words that a picture does not have."""
    return [word for word in words if not re.search(rf"\b{re.escape(word)}\b", text)]


def fields(*bodies: type) -> set[str]:
    """Names of the fields of messages."""
    return {field.name for body in bodies for field in dataclasses.fields(body)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("blocks", STATE_NAMES),
        ("sessions", (session.ATTACHED, session.READY, session.FENCED)),
        ("claims", (claims.SEALED, claims.YOURS)),
    ],
)
def test_a_picture_has_every_state_of_the_code(page: str, words: tuple[str, ...]) -> None:
    """By the name that it has there."""
    assert missing(picture(CONCEPTS / f"{page}.md"), words) == []
    assert missing((ROOT / "kvstore" / "README.md").read_text(), [word for word in words if page != "claims"]) == []


def test_the_marks_are_fields_of_a_sequence() -> None:
    """``sealed``, ``fill``, ``writable`` and the table: drawn in the order that holds between them."""
    marks = ("sealed", "fill", "writable", "table")
    assert set(marks) <= fields(Sequence)
    line = picture(CONCEPTS / "sequences.md").splitlines()[1]
    assert [line.index(mark) for mark in marks] == sorted(line.index(mark) for mark in marks)


def test_a_request_speaks_the_words_of_the_wire() -> None:
    """Ops, and the fields of a step in which they go."""
    parts = ("fills", "seals", "extends", "completed", "releases")
    assert set(parts) <= fields(Step)
    words = (*parts, ALLOCATE.name, STEP.name, Generate.__name__, Outputs.__name__)
    assert missing(picture(CONCEPTS / "request.md"), words) == []


def test_a_fork_speaks_the_words_of_the_wire() -> None:
    """Its op, and the field in which a copy is acknowledged."""
    assert "copies_done" in fields(Step)
    assert missing(picture(CONCEPTS / "forks.md"), (FORK.name, "copies_done")) == []


def test_the_arena_is_drawn_to_scale() -> None:
    """Each factor of the offset is the stride of the layout that the page describes."""
    page = CONCEPTS / "arena.md"
    layout = Layout("", "", "", "", "float32", block_size=4, num_layers=2, num_kv_heads=2, head_dim=8)
    names = ("layer", "kv", "head", "block", "slot", "d")
    strides = layout.strides(4)
    assert missing(picture(page), names) == []
    terms = [f"{name}*{stride}" for name, stride in zip(names, strides, strict=True) if stride > 1]
    assert f"offset = {' + '.join(terms)} + d" in page.read_text()
    assert missing(picture(page), map(str, (*strides[:3], *(strides[3] * block for block in range(4))))) == []


TABLE = re.compile(r"^ {4}[a-d] ([\d |]+)", re.MULTILINE)
ITEM = re.compile(r" ((?:[a-d] )+) +(\d+) \.\. (\d+) +(\d+(?: \d+)*)(.*)")


def test_the_items_of_a_step_are_what_the_plan_makes() -> None:
    """Rows, keys and blocks of each, and which is causal, for the tables that are drawn beside them."""
    text = (ROOT / "kernels" / "README.md").read_text().split("## Work items")[1].split("```")[1]
    tables = [list(map(int, row.replace("|", "").split())) for row in TABLE.findall(text)]
    drawn = ITEM.findall(text)
    starts = [60, 75, 50, 34]
    plan = build_plan([np.array(table, np.int32) for table in tables], starts, [1, 1, 1, 6], block_size=16)
    items = plan.items()
    assert len(drawn) == len(items)
    for item, (rows, first_key, last_key, blocks, words) in enumerate(drawn):
        wanted = items.rows[items.row_ptr[item] : items.row_ptr[item + 1]]
        at, start, length = items.table_start[item], items.kv_start[item], items.kv_len[item]
        assert rows.split() == ["abcdddddd"[row] for row in wanted]
        assert list(map(int, blocks.split())) == plan.table[at : at + -(-(start % 16 + length) // 16)].tolist()
        assert (int(first_key), int(last_key)) == (start, start + length - 1)
        assert ("causal" in words) == items.causal[item]


def test_figures_of_the_crash_are_those_of_the_results() -> None:
    """Median, longest and number of kills, as they stand in ``bench/results``."""
    seconds = json.loads((ROOT / "bench" / "results" / "chaos.json").read_text())["figures"]["seconds"][KILLED]
    text = picture(CONCEPTS / "crash.md")
    assert f"{median(seconds) * 1000:.0f} ms      median" in text
    assert f"{max(seconds) * 1000:.0f} ms      the longest of {len(seconds)} kills" in text


def test_a_missing_word_is_seen() -> None:
    """Only a whole word counts."""
    assert missing("free --> held", ("free", "hel", "cached")) == ["hel", "cached"]
