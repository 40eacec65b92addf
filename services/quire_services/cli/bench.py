"""``quire bench``: hands over to the benches of the source tree.

Benches need the tree they measure, peers in environments of their own and a place for results, so they are in
``bench/`` beside the packages and are not part of the installed distribution.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Entry of ``quire bench``; returns the exit code."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "bench" / "cli.py").is_file():
        print("quire bench: the benches come with the source tree, not with the package", file=sys.stderr)  # noqa: T201
        return 1
    sys.path.insert(0, str(root))
    code: int = importlib.import_module("bench.cli").main(argv)
    return code
