"""Every command that a page tells a reader to run is run, or its mark says why not; its flags exist in any case."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from tests.repo.pages.commands import Block, blocks_of, told_pages
from tests.repo.pages.page_session import MODEL, PageSession
from tests.support.repository import ROOT

BLOCKS = [block for page in told_pages() for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.is_shell]
SERVING = {block.page for block in SHELL if block.mark == "serve"}
# Pages that start no stack share one, so they come first.
RUN = sorted({block.page for block in SHELL if not block.mark} | SERVING, key=lambda page: (page in SERVING, page))
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
GROUPS = ("bench", "cluster", "declare", "group", "prefix", "tenant")  # commands with a help for each of theirs


def test_every_block_of_commands_runs_or_says_why_not() -> None:
    """A language on each, and no mark but those that have a reason."""
    assert [f"{block}: {fault}" for block in BLOCKS if (fault := block.fault())] == []
    assert len(RUN) > 5


@pytest.mark.parametrize(
    ("block", "wrong"),
    [
        ("```sh\nquire status\n```\n", False),
        ("```sh gpu\nquire serve\n```\n", False),
        ("```\n  a --> picture\n```\n", False),
        ("```sh someday\nquire status\n```\n", True),
        ("```\nquire status --json\n```\n", True),
        ("```\nPORT=1 make serve\n```\n", True),
        ("```\n$ curl localhost\n```\n", True),
    ],
)
def test_a_block_that_nothing_proves_is_seen(tmp_path: Path, block: str, wrong: bool) -> None:
    """Without a language, or with a mark that is none; pictures may stand as they are."""
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{block}")
    assert [bool(found.fault()) for found in blocks_of(page)] == [wrong]


def unknown_flags(blocks: list[Block]) -> list[str]:
    """Flags of ``quire`` in commands that its help does not know."""
    found, helps = [], {}
    for block in blocks:
        for command in block.commands().replace("\\\n", " ").splitlines():
            words = re.match(r"\s*quire (\w+)((?: \w+)?)([^#|]*)", command)
            if not words or not (flags := FLAG.findall(words[3])):
                continue
            name = [words[1], *([words[2].strip()] if words[1] in GROUPS else [])]
            if tuple(name) not in helps:
                asked = [sys.executable, "-m", "quire_services.cli", *name, "--help"]
                helps[tuple(name)] = set(FLAG.findall(subprocess.run(asked, capture_output=True, text=True).stdout))
            found += [f"{block}: {flag}" for flag in flags if flag not in helps[tuple(name)]]
    return found


@pytest.mark.slow
def test_every_flag_that_a_command_has_is_one() -> None:
    """Those of blocks that do not run here included."""
    assert unknown_flags(SHELL) == []
    planted = Block(ROOT / "README.md", 1, "sh gpu", "quire serve --model DIR --no-such-flag\n")
    assert unknown_flags([planted]) == ["README.md:1: --no-such-flag"]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageSession]:
    """A reader's shell, and a tiny random model under the name of the one that pages use."""
    folder = tmp_path_factory.mktemp("pages")
    with PageSession(folder, make_model(folder / MODEL)) as session:
        yield session


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(session: PageSession, page: Path) -> None:
    """From the top down, in one shell, against the stack that the page starts, or one that runs already."""
    session.play([block for block in SHELL if block.page == page])


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["quire prefix lst", "curl -s http://127.0.0.1:8000/v1/nothing"])
def test_a_command_that_does_not_work_is_seen(session: PageSession, wrong: str) -> None:
    """A name, a path or a status that is wrong ends the page, and is named."""
    page = ROOT / "README.md"
    with pytest.raises(AssertionError, match=r"README\.md:7"):
        session.play([Block(page, 3, "sh", "quire status\n"), Block(page, 7, "sh", f"{wrong}\n")])
