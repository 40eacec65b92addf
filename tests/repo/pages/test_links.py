"""Pages lead where they say: links and headings exist, decisions are numbered in a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.repo.pages.links import broken_links, code_named, is_named_rightly, within
from tests.support.repository import ROOT, source_files

PAGES = source_files("*.md")
FILES = [str(path.relative_to(ROOT)) for path in source_files()]
PAST = ("CHANGELOG.md", "bench/results/")  # these say what was
NAMING = [page for page in PAGES if not str(page.relative_to(ROOT)).startswith(PAST)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Relative links name a file that exists, and a heading of it."""
    assert broken_links(page) == []


@pytest.mark.parametrize("page", NAMING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    """Paths and dotted names of modules, as far as they are said; what was noted once may be gone."""
    assert [name for name in sorted(code_named(page)) if not is_named_rightly(name, FILES)] == []


def test_every_page_is_two_links_from_the_readme() -> None:
    """All but the tables that benches write."""
    near = within(ROOT / "README.md", 2)
    wanted = [page for page in PAGES if "results" not in page.parts]
    assert [str(page.relative_to(ROOT)) for page in wanted if page not in near] == []


def test_the_first_screen_says_what_it_is_and_what_runs_where() -> None:
    """Before line 40 of the README: one picture, two commands, and what has run on a CPU and on a GPU."""
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    wanted = ("kvstore ---", "make demo", "make test", "| CPU | measured", "| GPU | compiled", "not yet run on a GPU")
    assert [words for words in wanted if words not in screen] == []


def misnumbered(folder: Path) -> list[str]:
    """Decisions whose number is not that of their place, or whose title bears another one."""
    found = []
    for number, page in enumerate(sorted(folder.glob("*.md")), 1):
        title = page.read_text().splitlines()[0]
        if not page.name.startswith(f"{number:04}-") or not title.startswith(f"# {number}. "):
            found.append(page.name)
    return found


def test_decisions_are_numbered_without_holes() -> None:
    """``docs/adr`` counts from 1, and each title bears the number of its file."""
    assert list((ROOT / "docs" / "adr").glob("*.md")), "there are decisions"
    assert misnumbered(ROOT / "docs" / "adr") == []


def planted(root: Path) -> Path:
    """Three decisions and a page, all in order."""
    adr = root / "adr"
    adr.mkdir()
    for number in (1, 2, 3):
        (adr / f"{number:04}-choice.md").write_text(f"# {number}. A choice\n\n## What it costs\n\n## What it costs\n")
    page = root / "page.md"
    page.write_text(
        "[one](adr/0001-choice.md) [cost](adr/0002-choice.md#what-it-costs-1), [here](#a-page)\n# A `page`\n"
    )
    return page


def _file(root: Path) -> None:
    (root / "adr" / "0001-choice.md").rename(root / "adr" / "0001-chosen.md")


def _heading(root: Path) -> None:
    (root / "adr" / "0002-choice.md").write_text("# 2. A choice\n\n## What it costs\n")


def _own_heading(root: Path) -> None:
    (root / "page.md").write_text("[here](#a-page)\n```\n# A page\n```\n")


@pytest.mark.parametrize("plant", [_file, _heading, _own_heading])
def test_each_broken_link_is_seen(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    """A page in order passes; without the file, the heading or the heading outside of code it does not."""
    page = planted(tmp_path)
    assert broken_links(page) == []
    plant(tmp_path)
    assert len(broken_links(page)) == 1


def test_a_page_that_is_too_far_is_seen(tmp_path: Path) -> None:
    """Links are counted, and a page that none leads to is reached by no number of them."""
    for name, links in {"a": "[b](b.md)", "b": "[c](c.md#top) [a](a.md)", "c": "", "lost": "[a](a.md)"}.items():
        (tmp_path / f"{name}.md").write_text(links)
    near = [{page.stem for page in within(tmp_path / "a.md", hops)} for hops in range(4)]
    assert near == [{"a"}, {"a", "b"}, {"a", "b", "c"}, {"a", "b", "c"}]


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("ops/fork.py", True),
        ("fork.py", True),
        ("ork.py", False),
        ("ops/forking.py", False),
        ("quire_kvstore.ops.fork", True),
        ("quire_kvstore.ops.fork.fork", True),
        ("quire_kvstore.ops", True),
        ("quire_kvstore.forking", False),
    ],
)
def test_a_name_that_is_stale_is_seen(tmp_path: Path, name: str, there: bool) -> None:
    """Whole parts of a path count; a name in a module is left to the reader."""
    page = tmp_path / "page.md"
    page.write_text(f"See `{name}` and `other`.\n")
    files = ["kvstore/quire_kvstore/ops/__init__.py", "kvstore/quire_kvstore/ops/fork.py"]
    assert [is_named_rightly(found, files) for found in code_named(page)] == [there]


@pytest.mark.parametrize("wrong", ["hole", "title"])
def test_each_wrong_number_is_seen(tmp_path: Path, wrong: str) -> None:
    """Decisions in a row pass; a hole or a title with another number does not."""
    planted(tmp_path)
    adr = tmp_path / "adr"
    assert misnumbered(adr) == []
    if wrong == "hole":
        (adr / "0002-choice.md").unlink()
    else:
        (adr / "0002-choice.md").write_text("# 4. A choice\n")
    assert misnumbered(adr)
