"""The same stack without a GPU: kvstore and engines over recorded driver calls, host memory in the place of a GPU's.

What a dry run has of arenas on a device: descriptors, handles, mappings and their rights, and deaths are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.gpu.processes.stack import Stack

PROGRAMS = {"kvstore": "tests.kvstore.host.cuda_arena.recorded_kvstore", "engine": "tests.support.device_engine"}


class RecordedStack(Stack):
    """See ``Stack``; ``recorder`` is what the recorder of each process is told beside that memory is real."""

    def __init__(
        self, directory: Path, model: Path, blocks: int, arena: str, *, recorder: Any = None, **more: Any
    ) -> None:
        super().__init__(directory, model, "cpu", blocks, arena, **more)
        self._recorder = directory / "recorder.json"
        self._recorder.write_text(json.dumps({"mapped": True, **(recorder or {})}))
        self.kvstore_flags.append(f"--arena={arena}")  # the last one counts

    def _program(self, command: str) -> list[str]:
        return ["-m", PROGRAMS[command], str(self._recorder)]
