"""The step log: what a line says of a step."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from quire_engine.scheduling.step_log import StepLog


def work(prompt: int, launched: int, count: int, decoding: bool = False, drafted: int = 0) -> Any:
    request = SimpleNamespace(prompt=bytes(4 * prompt))
    sequence = SimpleNamespace(request=request, launched=launched, decoding=decoding, table=())
    return SimpleNamespace(count=count, rows=count + drafted, sequence=sequence)


def test_a_line_tells_prompts_from_answers(tmp_path) -> None:
    """Tokens of prompts are counted apart from those of answers that are computed again, and from drafted ones."""
    log = StepLog(tmp_path / "steps")
    kv: Any = SimpleNamespace(step=1, messages=0, block_size=16)
    scheduler: Any = SimpleNamespace(running=[], waiting=[], preemptions=0)
    step = [work(30, 16, 14), work(30, 40, 7), work(30, 28, 5), work(30, 44, 1, decoding=True, drafted=6)]
    log.write(kv, scheduler, step)
    assert log._file is not None
    log._file.close()
    (line,) = map(json.loads, (tmp_path / "steps").read_text().splitlines())

    assert line["prefill_tokens"] == 14 + 7 + 5
    assert line["prompt_tokens"] == 14 + 2
    assert line["drafted_tokens"] == 6
    assert (line["prefill_rows"], line["decode_rows"]) == (3, 1)
