"""A real kvstore process in a directory of its own, for benches that need no model.

Blocks are as small as a layout allows (one head of one dimension), so that a pool of millions of ids costs little
memory. The process's CPU time is read from the clock the kernel keeps for it, which counts all its threads.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from quire_kv import KVReader, Layout, QuireError

START_S = 20.0
STOP_S = 10.0


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, in nanoseconds (Linux numbers a process's clock by its id)."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def tiny_layout(block_size: int) -> Layout:
    """A layout of the least bytes a block."""
    return Layout("ids", "", "", "", "float16", block_size, num_layers=1, num_kv_heads=1, head_dim=1)


class KVProcess:
    """``quire kvstore`` with ``blocks`` blocks of ``block_size`` tokens; leaving the context stops it.

    ``layout``: of a real model; by default the smallest there is. ``python``: whose interpreter, if not this tree's.
    """

    def __init__(
        self, blocks: int, block_size: int, layout: Layout | None = None, python: str = sys.executable
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="quire-bench-"))
        prepared = self.directory / "prepared.json"
        prepared.write_text(json.dumps({"layout": asdict(layout or tiny_layout(block_size)), "published": []}))
        self._log = (self.directory / "kvstore.log").open("wb")
        command = [python, "-P", "-m", "quire_services.cli", "kvstore", f"--run-dir={self.directory}"]
        command += [f"--prepared={prepared}", f"--blocks={blocks}", "--lease-ms=60000", "--reserve=false"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self._log)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_S
        while True:
            try:
                with KVReader(self.directory, timeout=1.0) as reader:
                    reader.stats()
                return self
            except (QuireError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self.directory / "kvstore.log").read_text()[-2000:]
                    self.__exit__(None, None, None)
                    raise RuntimeError(f"the kvstore did not start: {said}") from None
                time.sleep(0.02)

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
