"""The reading order of the services' page is as long as it says."""

from __future__ import annotations

import re

from tests.repo.pages.links import line_count, links_of
from tests.support.repository import ROOT

PAGE = (ROOT / "services" / "README.md").read_text()
PACKAGE = ROOT / "services" / "quire_services"
TOLERANCE = 0.1


def test_the_reading_order_has_the_lines_that_it_says() -> None:
    """Each row's number of lines is right to a tenth, and so is their sum in the text; the README leads to it."""
    rows = re.findall(r"^\| (`[^|]*`) \| (\d+) \|", PAGE, re.MULTILINE)
    assert len(rows) > 3
    total = 0
    for files, told in rows:
        lines = sum(line_count(PACKAGE / name) for name in re.findall(r"`([^`]+)`", files))
        assert abs(lines - int(told)) <= TOLERANCE * lines, (files, lines)
        total += lines
    told = re.search(r"^About ([\d,]+) lines", PAGE, re.MULTILINE)
    assert told is not None
    assert abs(total - int(told[1].replace(",", ""))) <= TOLERANCE * total
    assert "services/README.md" in links_of(ROOT / "README.md")
