"""The results on disk are those that the page of the benches lists."""

from __future__ import annotations

import re
from pathlib import Path

BENCH = Path(__file__).resolve().parents[3] / "bench"


def test_the_page_lists_every_result_and_no_other() -> None:
    """Each JSON file has a row, each row its files."""
    page = (BENCH / "README.md").read_text()
    section = page[page.index("## Results on disk") :].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]

    assert sorted(listed) == sorted(file.stem for file in (BENCH / "results").glob("*.json"))
    assert all((BENCH / "results" / f"{name}.md").is_file() for name in listed)
