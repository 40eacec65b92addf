"""The page of the services stays true: the files that it names exist, and the reading order is as long as it says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "services" / "README.md").read_text()
PACKAGE = ROOT / "services" / "quire_services"
TOLERANCE = 0.1


def test_the_files_of_the_page_exist() -> None:
    """Every Python file, page and folder in its tables is where the page says, in the package or from the root."""
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    named = [name for row in rows for name in re.findall(r"`([\w/.]+/[\w.]*)`", row)]
    assert len(named) > 20
    roots = (PACKAGE, ROOT, ROOT / "proto")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_the_reading_order_has_the_lines_that_it_says() -> None:
    """Each row's number of lines is right to a tenth, and so is their sum in the text."""
    rows = re.findall(r"^\| (`[^|]*`) \| (\d+) \|", PAGE, re.MULTILINE)
    assert rows
    total = 0
    for files, told in rows:
        lines = sum(len((PACKAGE / name).read_text().splitlines()) for name in re.findall(r"`([^`]+)`", files))
        assert abs(lines - int(told)) <= TOLERANCE * lines, (files, lines)
        total += lines
    told = re.search(r"^About ([\d,]+) lines", PAGE, re.MULTILINE)
    assert told is not None
    assert abs(total - int(told[1].replace(",", ""))) <= TOLERANCE * total
