"""Commands that pages tell a reader to run: the fenced blocks they stand in, and how each is proved.

A block whose language is ``sh`` runs as it stands, or has a mark behind that word, ``sh gpu``, which says why it does
not. Blocks of a page are one shell session from the top of the page down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.repository import ROOT

SHELLS = {"sh", "bash", "console", "shell"}
MARKS = {
    "serve": "starts a stack in the foreground: it is started, the blocks behind it run against it, and it is stopped",
    "gpu": "needs a GPU",
    "compose": "needs a container engine: `make compose-test` starts and breaks that stack",
    "make": "a target of make: CI runs it, or what it is made of",
    "fetches": "fetches from the internet, or installs",
    "doctor": "its exit code tells of the host, which is another one here; the doctor's own tests run it",
    "example": "has words in place of values that only the reader knows; its flags are checked",
}
COMMAND = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S+ +)*(quire|curl|make|pip|docker|python3?|export|pytest|lm_eval) +\S")
FENCE = re.compile(r" *(`{3,})(.*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of commands, or of what looks like some.

    Attributes:
        line: of its fence, from 1.
        info: what stands behind the fence.
    """

    page: Path
    line: int
    info: str
    text: str

    @property
    def mark(self) -> str:
        """Its mark, empty if it runs."""
        return self.info.partition(" ")[2].strip()

    @property
    def is_shell(self) -> bool:
        """Whether its language is a shell's."""
        return self.info.partition(" ")[0] in SHELLS

    def commands(self) -> str:
        """What a shell is given: of a console's block the lines behind the prompt."""
        if not self.info.startswith("console"):
            return self.text
        return "".join(line[2:] for line in self.text.splitlines(keepends=True) if line.startswith("$ "))

    def fault(self) -> str:
        """Why it is neither run nor marked, or nothing."""
        if self.is_shell:
            return "" if not self.mark or self.mark in MARKS else f"no mark is called {self.mark!r}: {', '.join(MARKS)}"
        if not self.info and any(COMMAND.match(line) for line in self.text.splitlines()):
            return "commands in a block without a language: say sh, or sh and a mark"
        return ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    fence, start, info, lines = "", 0, "", [""]
    for number, line in enumerate(page.read_text().splitlines(keepends=True), 1):
        opened = FENCE.fullmatch(line.rstrip("\n"))
        if not fence and opened:
            fence, start, info, lines = opened[1], number, opened[2].strip(), []
        elif fence and line.strip() == fence:
            found.append(Block(page, start, info, "".join(lines)))
            fence = ""
        elif fence:
            lines.append(line)
    return found


def told_pages() -> list[Path]:
    """Pages whose commands a reader runs: the README, and all under docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
