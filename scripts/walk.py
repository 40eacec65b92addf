"""The walk names lines of the code; this finds where they are now.

    python scripts/walk.py            writes the numbers into docs/parts/walk.md
    python scripts/walk.py --check    says which are wrong, and changes nothing

An answer is a link, [`pool.py:120 def release`](../../kvstore/quire_kvstore/blocks/pool.py#L120): a file, a number, and
how that line begins. The beginning must be that of one line of the file alone. An answer stands on one line.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parts" / "walk.md"
ANSWER = re.compile(r"\[`([^`:\s]+):\d+ ([^`\n]+)`\]\(([^)#\s]+)#L\d+\)")


class Lost(Exception):
    """A line that an answer names is not there, or there are several."""


def line_of(path: Path, beginning: str) -> int:
    """Number of the one line that begins so, its indentation aside."""
    if not path.is_file():
        raise Lost(f"{path}: no such file")
    lines = path.read_text().splitlines()
    whole = re.compile(rf"\s*{re.escape(beginning)}(?!\w)")  # "def free" is not "def free_ids"
    found = [number for number, line in enumerate(lines, 1) if whole.match(line)]
    if len(found) != 1:
        raise Lost(f"{path}: {len(found)} lines begin with {beginning!r}")
    return found[0]


def refreshed(text: str, folder: Path) -> str:
    """The text of a page in ``folder`` with all its numbers as they should be. Raises Lost."""

    def answer(found: re.Match[str]) -> str:
        _, beginning, link = found.groups()
        path = (folder / link).resolve()
        number = line_of(path, beginning)
        return f"[`{path.name}:{number} {beginning}`]({link}#L{number})"

    return ANSWER.sub(answer, text)


def main(argv: list[str]) -> int:
    """Refresh or check the walk."""
    text = PAGE.read_text()
    try:
        wanted = refreshed(text, PAGE.parent)
    except Lost as exc:
        print(f"walk: {exc}: change the answer in {PAGE.name}", file=sys.stderr)
        return 1
    if argv == ["--check"]:
        stale = [new for old, new in zip(text.splitlines(), wanted.splitlines(), strict=True) if old != new]
        print("\n".join(stale), end="\n" if stale else "")
        return int(bool(stale))
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
