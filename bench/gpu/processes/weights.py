"""One copy of the weights for all engines of a GPU: what sharing them costs, and what it saves.

On a pool behind a descriptor one engine uploads the weights and the next maps them: both give the same tokens, the
kvstore knows one arena with two readers, and each says whether its driver maps it read-only, and in what time. Then the
second is killed: the time from the kill until it takes requests, with weights that are there, beside that of an engine
with weights of its own. Last the kvstore is killed, and the next one is brought the weights by those that map them.

A dry run has recorded driver calls in the place of a GPU.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu.processes.recorded_stack import RecordedStack
from bench.gpu.processes.stack import Stack, wait_for, write_model
from bench.gpu.report import SHORT
from bench.gpu.step import Row, Step
from bench.models.tiny import FIRST_WORD

ARENA, BLOCKS, TOKENS = "cuda-vmm-fd", 192, 8
FIRST, SECOND = "engine-1", "engine-2"
SIZES: dict[str, Any] = {"layers": 8, "hidden": 2048, "heads": 16, "kv_heads": 4, "head_dim": 128, "vocab": 8000}
DRY: dict[str, Any] = {"layers": 1, "hidden": 64, "heads": 4, "kv_heads": 1, "head_dim": 16, "vocab": 64}


def start_s(stack: Stack, name: str) -> float:
    """Seconds from now until an engine that is started takes requests."""
    began = time.monotonic()
    stack.start_engine(name)
    stack.wait_ready(name)
    return time.monotonic() - began


def share_once(stack: Stack) -> Row:
    """Start two engines, one after the other. Raises RuntimeError unless one uploads, and both map the same arena."""
    stack.start_kvstore()
    found: Row = {}
    for name, what in ((FIRST, "upload"), (SECOND, "map")):
        found[f"{what}_ready_s"] = start_s(stack, name)
        said = stack.events(name, "weights_shared")
        if [line["written"] for line in said] != [name == FIRST]:
            raise RuntimeError(f"{name} shares no weights, or writes what is there: {said}\n{stack.said()}")
        found |= {
            "bytes": said[0]["bytes"],
            f"{what}_ms": said[0]["mapped_ms"],
            f"{what}_read_only": said[0]["read_only"],
        }
    rows = [(one.state, one.readers) for one in stack.stats().weights]
    if rows != [("sealed", 2)]:
        raise RuntimeError(f"not one arena that two engines map: {rows}")
    return found | equal_answers(stack)


def equal_answers(stack: Stack) -> Row:
    """What both answer. Raises RuntimeError where that differs."""
    draw = random.Random(5)
    prompt = [draw.randrange(FIRST_WORD, DRY["vocab"]) for _ in range(20)]
    answers = [stack.ended(stack.gateway.ask(name, prompt, TOKENS)).tokens for name in (FIRST, SECOND)]
    if answers[0] != answers[1] or len(answers[0]) != TOKENS:
        raise RuntimeError(f"{FIRST} and {SECOND} answer {answers}")
    return {"tokens_equal": TOKENS}


def kill_to_ready(stack: Stack, name: str) -> float:
    """Seconds from kill -9 until an engine of that name takes requests again."""
    began = time.monotonic()
    stack.kill(name)
    stack.start_engine(name)
    stack.wait_ready(name)
    return time.monotonic() - began


def restarted(stack: Stack, own: Stack | None) -> Row:
    """Kill and start an engine whose weights are there, and one that loads its own, in a stack that shares none."""
    found = {"kill_to_ready_s": kill_to_ready(stack, SECOND)}
    if any(line["written"] for line in stack.events(SECOND, "weights_shared")):
        raise RuntimeError(f"{SECOND} wrote weights that were there")
    if own is None:
        return found
    with own:
        own.start(FIRST)
        return found | {"kill_to_ready_own_s": kill_to_ready(own, FIRST)}


def brought(stack: Stack) -> Row:
    """Kill the kvstore. Raises RuntimeError unless the next one has the weights of those that map them."""
    began = time.monotonic()
    stack.kill_kvstore(FIRST, SECOND)
    wait_for(lambda: [one.readers for one in stack.stats().weights] == [2], stack.patience_s, "the weights are brought")
    return {"brought_s": time.monotonic() - began, **equal_answers(stack)}


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch:
        model = write_model(Path(scratch) / "model", **(DRY if step.dry else SIZES))

        def made(name: str, *flags: str) -> Stack:
            directory, logs = Path(scratch) / name, step.folder / name
            shutil.rmtree(logs, ignore_errors=True)  # what an earlier call logged would be read as this one's
            logs.mkdir()
            if step.dry:
                found: Stack = RecordedStack(directory, model, BLOCKS, ARENA, logs=logs)
            else:
                found = Stack(directory, model, step.device, BLOCKS, ARENA, dtype="bfloat16", logs=logs)
            found.kvstore_flags += flags
            return found

        with made("shared") as stack:
            step.part("shared", lambda: share_once(stack))
            if "shared" in step.figures:
                # What weights of one's own cost is no question for a dry run.
                own = None if step.dry else made("own", "--share-weights=false")
                step.part("restart", lambda: restarted(stack, own))
                step.part("kvstore", lambda: brought(stack))
    found = {name: value for part in ("shared", "restart") for name, value in step.figures.get(part, {}).items()}
    step.figures[SHORT] = ", ".join(f"{name} {value:.3g}" for name, value in found.items() if isinstance(value, float))
    return step.end()


if __name__ == "__main__":
    raise SystemExit(main())
