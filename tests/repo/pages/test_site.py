"""The site (`mkdocs.yml`, `scripts/site_pages.py`): what pages link to is in it, and what is broken fails its build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT, script, source_files

pages: Any = script("site_pages")


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("README.md", "index.md"),
        ("docs/operate/limits.md", "operate/limits.md"),
        ("kvstore/README.md", "kvstore/README.md"),
        ("bench/results/scale.png", "bench/results/scale.png"),
        ("kernels/quire_kernels/cpu/tiles.c", "source/kernels/quire_kernels/cpu/tiles.c.md"),
    ],
)
def test_a_file_has_a_place_in_the_site(path: str, uri: str) -> None:
    """Pages of docs/ at its root, code as a page, all else under its own path."""
    assert pages.uri_of(path) == uri


def test_links_and_fences_are_rewritten_and_code_is_not() -> None:
    """Relative links alone; a fence's words become its title, a shell's go; code stays."""
    page = (
        "[a](b.md#c) `[x](y.md)` [web](https://e.x/) [here](#d)\n\n```scenario p.txt\n[q](r.md)\n```\n```sh gpu\n```\n"
    )
    now = (
        '[a](B.MD#C) `[x](y.md)` [web](https://e.x/) [here](#d)\n\n```text title="p.txt"\n[q](r.md)\n```\n```sh\n```\n'
    )
    assert pages.translated(page, str.upper) == now
    assert pages.links_of(page) == ["b.md"]


def test_all_that_pages_lead_to_is_reached() -> None:
    """From one page on: a part's page, what that links to, and a line of code as its file."""
    found = pages.reached(["docs/parts/walk.md"]).values()
    assert {"kvstore/README.md", "proto/PROTOCOL.md", "kvstore/quire_kvstore/blocks/pool.py"} <= set(found)


def falls_out(text: str) -> list[str]:
    """Paragraphs and tables that the site's Markdown takes out of their list item: they want four spaces."""
    prose = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\n *\n( {1,3}[^ \n].*)", prose)


@pytest.mark.parametrize("page", source_files("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_belongs_to_a_list_item_stays_in_it(page: Path) -> None:
    """A second paragraph or a table in it is indented by four, which GitHub and the site both read so."""
    assert falls_out(page.read_text()) == []


def test_a_paragraph_that_falls_out_is_seen() -> None:
    """Indented by two or three; in a fence nothing is judged."""
    assert falls_out("- one\n\n  | a |\n\n    | b |\n\n```\n\n  c\n```\n") == ["  | a |"]


def build(root: Path) -> subprocess.CompletedProcess[str]:
    """`make docs` in a copy of the tree."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_new_page_appears_and_a_broken_link_fails(tmp_path: Path) -> None:
    """A page that is put into a folder is in the navigation of others; a heading or file that is not there ends it."""
    for file in source_files():
        if file.suffix in {".md", ".yml", ".py", ".c", ".png"}:
            there = tmp_path / file.relative_to(ROOT)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, there)
    page = tmp_path / "docs" / "operate" / "planted.md"
    page.write_text("# A planted page\n\n[there](limits.md#bodies) [code](../../scripts/walk.py#L3)\n")
    built = build(tmp_path)
    assert built.returncode == 0, built.stderr
    assert "A planted page" in (tmp_path / "site" / "operate" / "limits" / "index.html").read_text()
    for link, said in (("limits.md#no-such", "no-such"), ("nowhere.md", "nowhere.md")):
        page.write_text(f"# A planted page\n\n[there]({link})\n")
        built = build(tmp_path)
        assert built.returncode != 0
        assert said in built.stderr
