"""How much the tests say: test functions, assert statements and expected errors, by folder.

    python scripts/count_tests.py ROOT [OLDER_ROOT]

With an older tree beside it, each count stands as older -> now; folders that are only in one of them have a dash. A
scenario is a test, and each line with something behind its arrow an assert.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from pathlib import Path

COUNTED = ("files", "tests", "asserts", "raises")


def counts(root: Path) -> dict[str, Counter[str]]:
    """Folder of tests -> counts of everything below it."""
    found: dict[str, Counter[str]] = {}
    for path in sorted((root / "tests").rglob("*.py")):
        parts = path.relative_to(root / "tests").parts
        entry = found.setdefault(parts[0] if len(parts) > 1 else ".", Counter())
        entry["files"] += 1
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                entry["tests"] += node.name.startswith("test_")
            elif isinstance(node, ast.Assert):
                entry["asserts"] += 1
            elif isinstance(node, ast.Call):
                entry["raises"] += ast.unparse(node.func) == "pytest.raises"
    for path in sorted((root / "tests" / "scenarios").glob("*/*.txt")):
        told = sum(" -> " in line and not line.startswith("#") for line in path.read_text().splitlines())
        found["scenarios"] += Counter(files=1, tests=1, asserts=told)
    found["all"] = sum(found.values(), Counter())
    return found


def main(argv: list[str]) -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description="Test functions, asserts and expected errors, by folder.")
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    parser.add_argument("older", type=Path, nargs="?")
    options = parser.parse_args(argv)
    now = counts(options.root)
    older = counts(options.older) if options.older else {}
    print("| tests | " + " | ".join(COUNTED) + " |")
    print("| --- |" + " ---: |" * len(COUNTED))
    for folder in [*sorted((set(now) | set(older)) - {"all"}), "all"]:
        cells = [str(now[folder][what]) if folder in now else "-" for what in COUNTED]
        if older:
            before = [str(older[folder][what]) if folder in older else "-" for what in COUNTED]
            cells = [f"{one} -> {two}" for one, two in zip(before, cells, strict=True)]
        print(f"| {folder} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
