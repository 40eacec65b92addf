"""kvstore processes over recorded driver calls, in one run directory."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from quire_proto.wire.layout import Layout
from tests.support.kvstore import Kvstore

LAYOUT = Layout("tiny", "w0", "{}", "", "bfloat16", 4, 2, 2, 8)
BLOCKS = 64
SIZE = LAYOUT.arena_bytes(BLOCKS)


class RecordedKvstore(Kvstore):
    """A kvstore whose driver is a recorder; ``calls`` is the file that the driver's calls are written to."""

    def __init__(self, run_dir: Path) -> None:
        self.calls = run_dir.with_suffix(".calls")
        self._recorder = run_dir.with_suffix(".recorder")
        program = (sys.executable, "-m", "tests.kvstore.host.cuda_arena.recorded_kvstore", str(self._recorder))
        super().__init__(run_dir, "--lease-ms=5000", blocks=BLOCKS, layout=LAYOUT, published=(), program=program)

    def start_with(self, arena: str, grace_ms: int = 20_000, wait: bool = True, **recorder: object) -> Self:
        """Start it with this arena and recorder."""
        self._recorder.write_text(json.dumps({"log": str(self.calls), **recorder}))
        return self.start(f"--arena={arena}", f"--fence-grace-ms={grace_ms}", wait=wait)

    def roster(self) -> list[int]:
        """Pids in the roster of mappers."""
        path = self.run_dir / "mappers.json"
        return [pid for pid, _ in json.loads(path.read_text())["mappers"]] if path.exists() else []


@contextlib.contextmanager
def recorded_kvstore(run_dir: Path) -> Iterator[RecordedKvstore]:
    """A run directory for kvstores; the last one is stopped at the end."""
    kvstore = RecordedKvstore(run_dir)
    try:
        yield kvstore
    finally:
        if kvstore.process.poll() is None:
            kvstore.stop()
