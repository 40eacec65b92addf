"""Pages quote scenarios to the letter (scripts/quote_scenarios.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT, script

quotes: Any = script("quote_scenarios")
PAGES = quotes.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_quotes_what_the_files_say(page: Path) -> None:
    """Else: ``python scripts/quote_scenarios.py``. A block that only looks like a quote is an error too."""
    text = page.read_text()
    assert text == quotes.quoted(text), "stale: python scripts/quote_scenarios.py"
    assert len(re.findall(r"^\s*`{3,}\s*scenario", text, re.MULTILINE)) == len(quotes.QUOTE.findall(text))


def test_a_stale_quote_is_seen_and_refreshed(tmp_path: Path) -> None:
    """One word that differs is enough; what stands around a quote stays, and a fresh page stays as it is."""
    (tmp_path / "a.txt").write_text("# A promise.\npool blocks=4 block_size=4\n")
    stale = "Before.\n\n```scenario a.txt\n# A promise.\npool blocks=8 block_size=4\n```\n\n```text\nother\n```\n"

    fresh = quotes.quoted(stale, tmp_path)

    assert fresh == stale.replace("blocks=8", "blocks=4")
    assert quotes.quoted(fresh, tmp_path) == fresh
    with pytest.raises(OSError, match="gone"):
        quotes.quoted("```scenario gone.txt\n```\n", tmp_path)
