"""Writes ``aio_calls.py``: the named calls of ``calls.py``, awaited. Run it after a change there.

The two clients have the same calls, and Python's types cannot say "the same, awaited" in a way that editors show. So
the second file is made from the first by five replacements, and reads as if it had been written by hand. With
``--check`` nothing is written: exit code 1 if the file is not what would be.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "proto" / "quire_proto" / "client"
SOURCE, TARGET = FOLDER / "calls.py", FOLDER / "aio_calls.py"
HEADER = '"""``calls.py`` for asyncio, written by ``scripts/write_aio_calls.py``: change it there, and run that."""'
AWAITED = (
    (r'\A""".*?"""', HEADER),
    (r"\bclass (\w+Calls)\b", r"class Async\1"),
    (r"\((\w+Calls)\)", r"(Async\1)"),
    (r"    def ", "    async def "),
    (r"\bself\.(call|step)\(", r"await self.\1("),
)


def awaited(text: str) -> str:
    """The source of blocking calls as that of awaited ones."""
    for found, instead in AWAITED:
        text = re.sub(found, instead, text, flags=re.DOTALL)
    return text


def main(argv: list[str]) -> int:
    """Write the file, or compare it."""
    text = awaited(SOURCE.read_text())
    if "--check" not in argv:
        TARGET.write_text(text)
    elif TARGET.read_text() != text:
        print(f"{TARGET.name} is not made from {SOURCE.name}: run python scripts/{Path(__file__).name}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
