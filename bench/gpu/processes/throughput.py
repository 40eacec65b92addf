"""Tokens a second of one, two and four engines on one pool.

The GPU is time-sliced between processes (no MPS), so more engines bring more only where one leaves the GPU idle, as
while it plans, talks to the kvstore or samples. The same requests, all there at once and spread evenly, are answered by
one, two and four engines; the sum of output tokens over the time from the first request to the last token counts.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from bench.gpu.processes.stack import Stack, write_model
from bench.gpu.report import SHORT
from bench.gpu.step import Step
from bench.models.tiny import FIRST_WORD

MORE_S = 30.0  # left for engines beyond the second
SIZES: dict[str, Any] = {"layers": 12, "hidden": 1024, "heads": 16, "kv_heads": 4, "head_dim": 64, "vocab": 8000}
DRY: dict[str, Any] = {"layers": 1, "hidden": 64, "heads": 4, "kv_heads": 1, "head_dim": 16, "vocab": 64}


def rate(stack: Stack, engines: tuple[str, ...], requests: int, prompt: int, tokens: int, vocab: int) -> dict[str, Any]:
    """Ask once to warm up, then everything at once."""
    draw = random.Random(len(engines))
    prompts = [[draw.randrange(FIRST_WORD, vocab) for _ in range(prompt)] for _ in range(requests)]
    for answer in [stack.gateway.ask(engine, prompts[0][:-1], 2) for engine in engines]:
        stack.ended(answer)
    answers = [stack.gateway.ask(engines[i % len(engines)], p, tokens) for i, p in enumerate(prompts)]
    for answer in answers:
        stack.ended(answer)
    bad = [f"{a.name}: {a.finish} {a.code}" for a in answers if a.finish != "length"]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(answers)} failed: {bad[:3]}")
    seconds = max(a.last for a in answers) - min(a.asked for a in answers)
    total = sum(len(a.tokens) for a in answers)
    return {"output_tokens": total, "seconds": seconds, "tokens_per_s": total / seconds}


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__)
    sizes = DRY if step.dry else SIZES
    requests, prompt, tokens = (4, 20, 3) if step.dry else (128, 256, 96)
    names = tuple(f"engine-{number}" for number in range(1, 3 if step.dry else 5))
    blocks = 2 * requests * -(-(prompt + tokens) // 16) + 64
    dtype = "float32" if step.dry else "bfloat16"
    with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch:
        model = write_model(Path(scratch) / "model", **sizes)
        stack = Stack(
            Path(scratch) / "run", model, step.device, blocks, dtype=dtype, sequences=requests, logs=step.folder
        )
        with stack:
            stack.start_kvstore()
            for number in (1, 2, 4):
                used = names[:number]
                if number > len(names) or (number > 2 and step.left < MORE_S):
                    break

                def measure(used: tuple[str, ...] = used) -> dict[str, Any]:
                    for name in used:
                        if name not in stack.processes:
                            stack.start_engine(name)
                    stack.wait_ready(*used)
                    return rate(stack, used, requests, prompt, tokens, sizes["vocab"])

                step.part(f"{number} engines", measure)
    found = {n: f["tokens_per_s"] for n, f in step.figures.items()}
    if len(found) > 1 and not step.dry:
        best = max(found, key=lambda name: found[name])
        one = found.get("1 engines", 0.0)
        step.figures["more_than_one_pays"] = bool(one and found[best] > 1.05 * one)
        step.figures["best"] = best
    step.figures[SHORT] = ", ".join(f"{name}: {value:.0f} tokens/s" for name, value in found.items())
    return step.end()


if __name__ == "__main__":
    raise SystemExit(main())
