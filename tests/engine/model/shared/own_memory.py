"""What of a process's memory is its own, as far as weights may be in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def own_bytes(*directories: Path) -> tuple[int, int]:
    """Bytes that this process alone has: what it has written, and pages of files in ``directories`` that no other
    process maps. Pages of other files come and go with other processes and say nothing of weights."""
    places = tuple(f"{directory.resolve()}/" for directory in directories)
    written = alone = 0
    for path, fields in _mappings():
        written += fields["Private_Dirty"]
        alone += fields["Private_Clean"] if path.startswith(places) else 0
    return written * 1024, alone * 1024


def _mappings() -> Iterator[tuple[str, dict[str, int]]]:
    """Path and sizes in KiB of each mapping (proc(5), smaps)."""
    path, fields = "", {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if words[0].endswith(":"):
            if words[-1] == "kB":
                fields[words[0][:-1]] = int(words[1])
            continue
        if fields:
            yield path, fields
        path, fields = words[5] if len(words) > 5 else "", {}
    yield path, fields
