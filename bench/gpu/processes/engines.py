"""Two engines and a kvstore through the arena, and what becomes of the blocks of those that are killed.

Greedy tokens of both engines, in float32, equal transformers' own, and a prompt that both are asked for is held once.
``ipc`` shows that on an IPC handle. ``deaths`` shows it on the first kind of arena that works, and goes on: requests at
random with random aborts while an engine and the kvstore are killed, a canary watching every block it can get: no block
may change after it was given to another, every answer that ends is right, and everything is served again afterwards.
Last, whether writes of a killed process still arrive after it was seen dead.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu.processes.late_writes import observe
from bench.gpu.processes.link import EngineAnswer
from bench.gpu.processes.stack import Stack, wait_for, write_model
from bench.gpu.report import SHORT
from bench.gpu.step import Step
from bench.models.tiny import FIRST_WORD
from bench.report.figures import say
from quire_kv import KVReader
from tests.support.reference import Reference

VOCAB, TOKENS, ENGINES = 256, 8, ("engine-1", "engine-2")
SHARED = 48  # tokens that all prompts begin with: three blocks
BLOCKS = 192
Expected = dict[tuple[int, ...], list[int]]


def expected_tokens(model: Path, prompts: int) -> Expected:
    """Prompts that begin alike, and what transformers generates; near ties are drawn again."""
    draw = random.Random(1)
    shared = [draw.randrange(FIRST_WORD, VOCAB) for _ in range(SHARED)]

    def prompt() -> list[int]:
        return shared + [draw.randrange(FIRST_WORD, VOCAB) for _ in range(draw.randrange(3, 40))]

    return Reference(model).decisive(prompt, TOKENS, prompts)


def right(answer: EngineAnswer, expected: Expected) -> bool:
    """Whether an answer that ran to its end has transformers' tokens."""
    return answer.tokens == expected[answer.prompt]


def same_tokens(stack: Stack, expected: Expected, long: int) -> dict[str, Any]:
    """Every prompt at both engines at once, then one of ``long`` blocks; raises where a token differs or a shared block
    is there twice."""
    answers = [stack.ended(a) for a in [stack.gateway.ask(e, p, TOKENS) for p in expected for e in ENGINES]]
    wrong = [a.name for a in answers if a.finish != "length" or not right(a, expected)]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(answers)} answers differ from transformers' or failed: {wrong[:5]}")
    draw = random.Random(time.monotonic())
    prompt = [draw.randrange(FIRST_WORD, VOCAB) for _ in range(long * 16 + 5)]
    held = [_blocks_in_use(stack)]
    for engine in ENGINES:
        last = stack.ended(stack.gateway.ask(engine, prompt, 1))
        held.append(_blocks_in_use(stack))
    if last.cached_tokens != long * 16 or held[2] != held[1]:
        raise RuntimeError(f"shared prompt not once: {last.cached_tokens} tokens cached, blocks in use {held}")
    return {
        "answers": len(answers),
        "tokens_equal": sum(len(a.tokens) for a in answers),
        "shared_prompt_blocks": {"first_engine": held[1] - held[0], "second_engine": held[2] - held[1]},
    }


def _blocks_in_use(stack: Stack) -> int:
    """Held and cached blocks, once nothing runs."""
    wait_for(lambda: stack.stats().blocks["held"] == 0, 10, "finished sequences give their blocks back")
    return stack.stats().blocks["cached"]


class Chaos:
    """Requests at random, aborts at random, kills on purpose.

    Attributes:
        counts: answers by how they ended.
        wrong: answers that ran to their end with other tokens than transformers'.
    """

    def __init__(self, stack: Stack, expected: Expected) -> None:
        self._stack, self._expected = stack, expected
        self._draw = random.Random(3)
        self._open: list[EngineAnswer] = []
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []

    def load(self, seconds: float) -> None:
        """Keep up to six requests at each engine for a while; a quarter is aborted at some point."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for engine in ENGINES:
                if sum(a.engine == engine for a in self._open) < 6 and engine in self._stack.gateway.ready():
                    prompt = self._draw.choice(list(self._expected))
                    self._open.append(self._stack.gateway.ask(engine, prompt, TOKENS))
            if self._open and self._draw.random() < 0.01:
                self._stack.gateway.abort(self._draw.choice(self._open))
            self._collect()
            time.sleep(0.01)

    def finish(self) -> None:
        """Wait for what is open."""
        for answer in self._open:
            self._stack.ended(answer)
        self._collect()

    def _collect(self) -> None:
        for answer in [a for a in self._open if a.ended.is_set()]:
            self._open.remove(answer)
            self.counts[answer.finish] = self.counts.get(answer.finish, 0) + 1
            if answer.finish == "length" and not right(answer, self._expected):
                self.wrong.append(answer.name)


def kills(stack: Stack, expected: Expected, load_s: float) -> dict[str, Any]:
    """Kill an engine, then the kvstore, under load and with a canary; raises if anything was wrong."""
    command = [sys.executable, "-m", "bench.gpu.processes.canary", str(stack.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as canary:
        chaos = Chaos(stack, expected)
        chaos.load(load_s)
        stack.kill("engine-2")
        chaos.load(load_s)
        stack.start_engine("engine-2")
        stack.wait_ready(*ENGINES)
        chaos.load(load_s)
        killed = time.monotonic()
        stack.kill_kvstore(*ENGINES)
        back_s = time.monotonic() - killed
        chaos.load(load_s)
        chaos.finish()
        output, _ = canary.communicate()
    seen = json.loads(output)
    found = {"answers": chaos.counts, "wrong": chaos.wrong, "kvstore_back_s": round(back_s, 2), "canary": seen}
    say(f"kills: {found}")
    if chaos.wrong or seen["changed"] or not chaos.counts.get("length") or not seen["cycles"]:
        raise RuntimeError(f"answers wrong, blocks changed, or nothing happened: {found}")
    with KVReader(stack.directory) as reader:
        return {**found, "counters": reader.stats().counters}


def on_arena(step: Step, scratch: Path, model: Path, expected: Expected, arena: str) -> None:
    """All parts on one kind of arena. Raises RuntimeError if nothing starts there."""
    with Stack(scratch / arena, model, step.device, BLOCKS, arena, logs=step.folder) as stack:
        stack.start(*ENGINES)
        step.figures |= {"arena": arena, f"start on {arena}": "two engines ready"}
        step.part("tokens", lambda: same_tokens(stack, expected, 5 if step.dry else 20))
        if step.what == "deaths":
            step.part("kills", lambda: kills(stack, expected, 1.0 if step.dry else 4.0))
            step.part("late writes", lambda: observe(stack.directory, 2 if step.dry else 5, step.folder))


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__, "deaths", "ipc")
    arenas = ("shm",) if step.dry else ("cuda-ipc",) if step.what == "ipc" else ("cuda-vmm-fd", "cuda-ipc")
    with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch:
        model = write_model(Path(scratch) / "model", vocab=VOCAB, heads=4, kv_heads=2, head_dim=64, hidden=128)
        expected = expected_tokens(model, 2 if step.dry else 12)
        for arena in arenas:
            try:
                on_arena(step, Path(scratch), model, expected, arena)
            except (RuntimeError, OSError) as error:
                step.fail(f"start on {arena}", error)
            if "arena" in step.figures:
                break
    parts = [name for name in ("tokens", "kills", "late writes") if name in step.figures]
    step.figures[SHORT] = f"on {step.figures.get('arena', 'no arena')}: {', '.join(parts) or 'nothing'} right"
    return step.end()


if __name__ == "__main__":
    raise SystemExit(main())
