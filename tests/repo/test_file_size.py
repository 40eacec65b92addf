"""Files must fit in a head: the hard cap is 400 lines."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CAP = 400


def test_no_source_file_is_longer_than_the_cap() -> None:
    """No Python file that git tracks has more than 400 lines."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, check=True, capture_output=True)
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(files) > 10
    lengths = {str(f.relative_to(ROOT)): len(f.read_bytes().splitlines()) for f in files if f.exists()}

    assert {name: length for name, length in lengths.items() if length > CAP} == {}
