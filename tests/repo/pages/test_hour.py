"""The reading order of the kvstore's page: an hour for a stranger, not an evening."""

from __future__ import annotations

import re
from pathlib import Path

from tests.repo.pages.links import LINK, line_count, links_of, section, target_of
from tests.support.repository import ROOT

PAGE = ROOT / "kvstore" / "README.md"
MOST_LINES = 2000
SECTIONS = re.compile(r"sections (\d+) to (\d+)")


def section_lines(page: Path, first: int, last: int) -> int:
    """Lines of the numbered sections ``first`` to ``last`` of a page."""
    lines = page.read_text().splitlines()
    heads = {int(found[1]): place for place, line in enumerate(lines) if (found := re.match(r"## (\d+)\. ", line))}
    return heads[last + 1] - heads[first]


def reading_order(page: Path) -> dict[str, int]:
    """What a page tells to read, itself first, and the lines of each."""
    part = section(page, "Reading order")
    found = {page.name: line_count(page)}
    sections = SECTIONS.search(part)
    assert sections is not None, "the protocol is part of it"
    for link in LINK.findall(part):
        target, anchor = target_of(page, link)
        lines = section_lines(target, int(sections[1]), int(sections[2])) if anchor else line_count(target)
        found[target.name] = lines
    return found


def test_the_reading_order_takes_an_hour() -> None:
    """Thirteen things, at most two thousand lines together, linked from the README's page of parts."""
    order = reading_order(PAGE)
    print("\n".join(f"{lines:>5} {name}" for name, lines in order.items()), f"\n{sum(order.values()):>5} together")
    assert len(order) == 13
    assert sum(order.values()) <= MOST_LINES
    assert "kvstore/README.md#reading-order" in links_of(ROOT / "README.md")


def test_a_longer_file_is_counted(tmp_path: Path) -> None:
    """A page, two sections and a file: a line more in any of them is a line more in the sum."""
    page, protocol, code = tmp_path / "README.md", tmp_path / "P.md", tmp_path / "a.py"
    page.write_text(
        "# Part\n\n## Reading order\n\n[sections 2 to 3](P.md#2-two), [`a.py`](a.py)\n\n## More\n[b](b.py)\n"
    )
    protocol.write_text("## 1. one\n## 2. two\nx\n## 3. three\ny\nz\n## 4. four\n")
    code.write_text("a\nb\n")
    assert reading_order(page) == {"README.md": 8, "P.md": 5, "a.py": 2}
    for path, line in ((page, "more\n"), (protocol, None), (code, "c\n")):
        before = sum(reading_order(page).values())
        path.write_text(path.read_text() + line if line else path.read_text().replace("x\n", "x\nx\n"))
        assert sum(reading_order(page).values()) == before + 1
