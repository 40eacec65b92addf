"""The pool as a kvstore shows it, read again and again, over the ends of that kvstore.

The map of the blocks is kept here and brought up to date with what has changed, so that a reading costs both sides
little however large the pool is. A kvstore that does not answer is an error of one reading; the next one looks for it
anew.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quire_kv import KVReader, PoolMap, Stats, TenantUsage
from quire_services.process.kvstore_call import kvstore_reader

Cells = NDArray[np.uint32]
RATED = ("messages", "steps", "prompt_tokens", "hit_tokens", "computed_tokens", "evictions", "forks")


@dataclass(frozen=True, slots=True)
class PoolReading:
    """What was read at one time.

    Attributes:
        at: when, in seconds of a clock that only goes forward.
        cells: of all blocks in order (``PROTOCOL.md``, ``pool_map``).
        counts: blocks by state, of the same moment as the cells.
        accounts: names, by the numbers that cells have.
    """

    at: float
    stats: Stats
    tenants: tuple[TenantUsage, ...]
    cells: Cells
    counts: dict[str, int]
    accounts: tuple[str, ...]

    def rates(self, before: PoolReading | None) -> dict[str, float]:
        """What happened in each second since an earlier reading; empty without one of the same kvstore."""
        if before is None or before.stats.boot != self.stats.boot or self.at <= before.at:
            return {}
        now, then, seconds = self.stats.counters, before.stats.counters, self.at - before.at
        return {name: (now.get(name, 0) - then.get(name, 0)) / seconds for name in RATED}

    def steps_per_s(self, before: PoolReading | None) -> dict[tuple[str, int], float]:
        """Steps of each session in a second, by name and pid."""
        if before is None or self.at <= before.at:
            return {}
        then = {(s.name, s.pid): s.progress for s in before.stats.sessions}
        seconds = self.at - before.at
        return {
            key: max(0, s.progress - then[key]) / seconds
            for s in self.stats.sessions
            if (key := (s.name, s.pid)) in then
        }


class PoolReader:
    """Reads the kvstore of a run directory; each question is given ``timeout_s``."""

    def __init__(self, run_dir: Path, timeout_s: float) -> None:
        self._run_dir, self._timeout_s = run_dir, timeout_s
        self._open = ExitStack()
        self._reader: KVReader | None = None
        self._boot, self._version = b"", 0
        self._cells: Cells = np.zeros(0, np.uint32)
        self._names: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self) -> PoolReading:
        """The pool now. Raises QuireError or OSError if no kvstore answers."""
        try:
            if self._reader is None:
                self._reader = self._open.enter_context(kvstore_reader(self._run_dir, self._timeout_s))
            return self._read(self._reader)
        except BaseException:
            self._reader = None
            self._open.close()
            raise

    def _read(self, reader: KVReader) -> PoolReading:
        stats, tenants = reader.stats(brief=True), reader.tenants().tenants
        found = self._brought_up_to_date(reader)
        names = tuple(self._names)
        return PoolReading(time.monotonic(), stats, tenants, self._cells.copy(), found.counts, names)

    def _brought_up_to_date(self, reader: KVReader) -> PoolMap:
        """The last answer; names come in parts, so that more than one may be needed."""
        while True:
            found = reader.pool_map(self._boot, self._version, len(self._names))
            if found.boot != self._boot:
                self._names, self._cells = [], np.zeros(found.num_blocks, np.uint32)
            cells = np.frombuffer(found.cells, "<u4")
            if found.blocks:
                self._cells[np.frombuffer(found.blocks, "<u4")] = cells
            elif len(cells):
                self._cells = cells.copy()
            self._boot, self._version = found.boot, found.version
            self._names += found.names
            if len(self._names) >= found.accounts or not found.names:
                return found
