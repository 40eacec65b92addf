"""Pages of engine and kernels: their pictures use the words of the code, their reading orders are as short as said."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from quire_engine.kv.step_grants import StepGrants
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import StepPlan
from quire_kernels.gpu.tiling import REGIMES
from tests.repo.pages.links import LINK, line_count, links_of, section, target_of
from tests.support.repository import ROOT

ENGINE, KERNELS = ROOT / "engine" / "README.md", ROOT / "kernels" / "README.md"


def length(page: Path) -> tuple[int, int]:
    """Lines of the code that a reading order links to, and how many it says there are at most."""
    text = section(page, "Reading order")
    files = [target_of(page, link)[0] for link in LINK.findall(text)]
    said = re.search(r"[Ff]ewer than ([\d,]+) lines", text)
    assert said is not None, "it says how long it is"
    lines = sum(line_count(file) for file in files if file.suffix in (".py", ".c"))
    return lines, int(said[1].replace(",", ""))


@pytest.mark.parametrize("page", [ENGINE, KERNELS], ids=["engine", "kernels"])
def test_a_reading_order_is_as_short_as_it_says(page: Path) -> None:
    """And not much shorter: a figure that is far off says nothing."""
    lines, most = length(page)
    assert 0.8 * most < lines < most


@pytest.mark.parametrize("page", [ENGINE, KERNELS], ids=["engine", "kernels"])
def test_a_page_is_linked_from_the_readme(page: Path) -> None:
    """By its path."""
    assert str(page.relative_to(ROOT)) in links_of(ROOT / "README.md")


def test_grants_are_drawn_in_the_order_in_which_they_are_applied() -> None:
    """The fields of ``StepGrants``, top down; and what a plan holds."""
    picture = section(ENGINE, "One step").split("```")[1]
    drawn = re.findall(r"^ {14}(\w+)", picture, flags=re.MULTILINE)
    assert drawn == [field.name for field in dataclasses.fields(StepGrants)]
    plan = {field.name for field in dataclasses.fields(StepPlan)} - {"budget_left", "scored_left"}
    assert plan == set(re.findall(r"\w+", picture.split("StepPlan:")[1].splitlines()[0]))


def test_the_counts_of_a_sequence_are_its_own() -> None:
    """In the order that holds between them."""
    counts = section(ENGINE, "Life of a sequence").split("```")[3].splitlines()[1]
    names = re.findall(r"\b(sealed|computed|launched|coming)\b", counts)
    assert names == ["sealed", "computed", "launched", "coming"]
    assert all(hasattr(Sequence, name) for name in names)


def test_items_are_drawn_by_the_names_of_their_regimes() -> None:
    """All three."""
    items = section(KERNELS, "Work items").split("```")[1]
    assert [name for name in REGIMES if not re.search(rf"\b{name}\b", items)] == []
