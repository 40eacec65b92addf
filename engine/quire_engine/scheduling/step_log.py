"""Step log: one JSON line a step, to see the batching and the waste instead of believing it.

A line holds what the step computed (decode rows, prefill rows and tokens, how many of these stand in prompts: the
others are of answers, lost to a preemption; and tokens drafted behind any of them), the queues, the messages so far,
and the slots of this engine's tables: ``slots_held`` over all physical blocks its sequences name, each once, and
``slots_filled`` of them. Waste is 1 - filled / held, blocks extended ahead included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

import numpy as np

from quire_engine.kv.kv_session import KvSession
from quire_engine.sequences.step_plan import Work

from .scheduler import Scheduler


class StepLog:
    """Writes the lines, or nothing if there is no path."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = path.open("a", buffering=1) if path else None

    def write(self, kv: KvSession, scheduler: Scheduler, work: list[Work]) -> None:
        """Log a step when it is about to be launched."""
        if self._file is None:
            return
        decodes = sum(item.sequence.decoding for item in work)
        held, filled = _slots(scheduler, kv.block_size, work)
        line = {
            "step": kv.step,
            "decode_rows": decodes,
            "prefill_rows": len(work) - decodes,
            "prefill_tokens": sum(item.count for item in work if not item.sequence.decoding),
            "prompt_tokens": sum(_of_prompt(item) for item in work),
            "drafted_tokens": sum(item.rows - item.count for item in work),
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "messages": kv.messages,
            "preemptions": scheduler.preemptions,
            "slots_held": held,
            "slots_filled": filled,
        }
        self._file.write(json.dumps(line) + "\n")


def _of_prompt(item: Work) -> int:
    """Tokens of the prompt that a piece of work computes."""
    sequence = item.sequence
    return max(0, min(item.count, len(sequence.request.prompt) // 4 - sequence.launched))


def _slots(scheduler: Scheduler, block_size: int, work: list[Work]) -> tuple[int, int]:
    counts = {id(item.sequence): item.count for item in work}
    tables = [s.table[s.behind :] for s in scheduler.running if len(s.table)]
    if not tables:
        return 0, 0
    fills = [
        np.clip(s.launched + counts.get(id(s), 0) - np.arange(s.behind, len(s.table)) * block_size, 0, block_size)
        for s in scheduler.running
        if len(s.table)
    ]
    blocks, where = np.unique(np.concatenate(tables), return_inverse=True)
    filled = np.zeros(len(blocks), np.int64)
    np.maximum.at(filled, where, np.concatenate(fills))
    return len(blocks) * block_size, int(filled.sum())
