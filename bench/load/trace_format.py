"""The trace format: gzip JSON lines, a header and then one request a line, with prefix-block identity.

    {"trace", "part", "block_tokens", "requests", "block_refs", "unique_blocks", "infinite_cache_hit", "desc", "fields"}
    {"ts": seconds, "in": tokens, "out": tokens, "s": session or -1, "b": [[first id, count], ...]}

Invariants: time never goes back; a block id always has the same predecessor, so an id implies its whole prefix;
ids are numbered in the order of their first appearance.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIELDS = (
    "ts s, in/out tokens, s session (-1 unknown), b = block ids as [first,count] runs; "
    "an id always has the same predecessor (prefix tree)"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request: arrival in seconds, lengths in tokens, block ids as runs."""

    ts: float
    prompt: int
    output: int
    session: int
    runs: tuple[tuple[int, int], ...]

    @property
    def blocks(self) -> int:
        """Blocks of the prompt."""
        return sum(count for _, count in self.runs)


def infinite_cache(requests: Sequence[Request]) -> tuple[int, int, float]:
    """Block references, unique blocks, and the hit rate of a cache that never evicts.

    Because an id implies its prefix and ids are numbered by first appearance, a request's new blocks are exactly
    those at or above the highest id seen so far.
    """
    references = unique = 0
    for request in requests:
        references += request.blocks
        unique = max([unique, *(first + count for first, count in request.runs)])
    return references, unique, 1 - unique / references if references else 0.0


def write(file: Path, requests: Sequence[Request], *, trace: str, part: str, block_tokens: int, desc: str) -> None:
    """Write a trace; equal requests give equal bytes."""
    references, unique, hit = infinite_cache(requests)
    header = {
        "trace": trace,
        "part": part,
        "block_tokens": block_tokens,
        "requests": len(requests),
        "block_refs": references,
        "unique_blocks": unique,
        "infinite_cache_hit": round(hit, 6),
        "desc": desc,
        "fields": FIELDS,
    }
    rows = ({"ts": r.ts, "in": r.prompt, "out": r.output, "s": r.session, "b": r.runs} for r in requests)
    lines = [json.dumps(header), *(json.dumps(row, separators=(",", ":")) for row in rows)]
    with file.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as out:
        out.write(("\n".join(lines) + "\n").encode())


def read(file: Path) -> tuple[dict[str, Any], Iterator[Request]]:
    """The header, and the requests one by one."""
    lines = iter(gzip.decompress(file.read_bytes()).decode().splitlines())
    header: dict[str, Any] = json.loads(next(lines))
    return header, (_request(json.loads(line)) for line in lines)


def _request(row: dict[str, Any]) -> Request:
    return Request(row["ts"], row["in"], row["out"], row["s"], tuple((a, c) for a, c in row["b"]))
