"""One engine through the pool, in bfloat16 or over keys and values in e4m3: every token it chose is transformers'.

In few bits two libraries round differently, so the same tokens cannot be asked for outright. What can is this: at every
place of every answer, the token that the engine chose is the best one of transformers' own logits, or as close to the
best as transformers in bfloat16 comes to itself in float32. The model that judges computes each answer at once, over
rounded keys and values where the pool rounds them. How close that is, is measured in the same run; where it is not much
less than what tells tokens apart, the step fails for showing nothing.

The number of tokens that are the very best is reported beside it, and of steps that the engine replayed as graphs.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.gpu.processes.link import EngineAnswer
from bench.gpu.processes.stack import Stack, wait_for, write_model
from bench.gpu.report import SHORT
from bench.gpu.step import Row, Step
from bench.models.tiny import FIRST_WORD
from quire_engine.checkpoint.kv_scales import KvScales
from quire_proto.wire.layout import E4M3
from tests.support.rounded_cache import RoundedCache

ENGINE = "engine-1"
REPORT_S = 5.0  # engines report twice a second
# In the largest error of any logit anywhere, which few come near: a token chosen by rounding is off by less.
ERRORS = 1.5
SHARP = 3.0  # what tells tokens apart, in such bounds


class Judge:
    """transformers over the same weights, in bfloat16 and in float32.

    Args:
        rounded: keys and values are kept in e4m3.
    """

    def __init__(self, directory: Path, device: torch.device, rounded: bool) -> None:
        load = AutoModelForCausalLM.from_pretrained
        self._device = device
        self._narrow: Any = load(directory, dtype=torch.bfloat16, attn_implementation="eager").eval().to(device)
        self._wide: Any = load(directory, dtype=torch.bfloat16, attn_implementation="eager").eval().float().to(device)
        config = self._wide.config
        self._scales = KvScales.ones(config.num_hidden_layers, config.num_key_value_heads) if rounded else None
        self.error = 0.0

    @torch.inference_mode()
    def gaps(self, prompt: tuple[int, ...], answer: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """For each token of an answer: how far its logit is below the best one's, and how far the median is."""
        logits = self._logits(self._wide, [*prompt, *answer])[len(prompt) - 1 : -1]
        narrow = self._logits(self._narrow, [*prompt, *answer])[len(prompt) - 1 : -1]
        self.error = max(self.error, float((logits - narrow).abs().max()))
        best = logits.max(-1).values
        chosen = logits[torch.arange(len(answer)), torch.tensor(answer)]
        return best - chosen, best - logits.median(-1).values

    def _logits(self, model: Any, tokens: list[int]) -> torch.Tensor:
        cache = {"past_key_values": RoundedCache(self._scales), "use_cache": True} if self._scales else {}
        found: torch.Tensor = model(torch.tensor([tokens], device=self._device), **cache).logits
        return found[0].float().cpu()


def judged(judge: Judge, answers: list[EngineAnswer]) -> Row:
    """What transformers says of every token. Raises RuntimeError if one is not its own, or if it cannot tell."""
    pairs = [judge.gaps(answer.prompt, answer.tokens) for answer in answers]
    gaps, apart = (torch.cat(column) for column in zip(*pairs, strict=True))
    bound, typical = ERRORS * judge.error, float(apart.median())
    found: Row = {
        "tokens": len(gaps),
        "transformers_best": int((gaps == 0).sum()),
        "within_rounding": int(((gaps > 0) & (gaps <= bound)).sum()),
        "wrong": int((gaps > bound).sum()),
        "largest_gap": float(gaps.max()),
        "bound": bound,
        "median_below_best": typical,
    }
    if typical < SHARP * bound:
        raise RuntimeError(f"rounding hides what tells tokens apart, so this shows nothing: {found}")
    if found["wrong"]:
        raise RuntimeError(f"{found['wrong']} of {len(gaps)} tokens are not transformers': {found}")
    return found


def all_through(stack: Stack, answers: list[EngineAnswer]) -> int:
    """How many there are. Raises RuntimeError if one fails."""
    for answer in answers:
        if stack.ended(answer).finish != "length":
            raise RuntimeError(f"{answer.name}: {answer.finish} {answer.code}, {len(answer.tokens)} tokens")
    return len(answers)


def replays(stack: Stack) -> Row:
    """Steps of the engine, and how many of them were replays. Raises RuntimeError if none was."""

    def counted() -> Row:
        counters = stack.gateway.counters(ENGINE)
        return {name: counters.get(name, 0) for name in ("steps", "replayed_steps")}

    try:
        wait_for(lambda: counted()["replayed_steps"], REPORT_S, "a replayed step")
    except TimeoutError:
        raise RuntimeError(f"the engine replayed no step: {counted()}; its log says why (graphs_off)") from None
    return counted()


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__, "bfloat16", "e4m3")
    rounded = step.what == "e4m3"
    sizes: dict[str, Any] = {"layers": 2, "hidden": 128, "heads": 4, "kv_heads": 2, "head_dim": 64, "vocab": 256}
    if not step.dry:
        sizes = {"layers": 4, "hidden": 512, "heads": 8, "kv_heads": 2, "head_dim": 128, "vocab": 2000}
    lengths, tokens = ((3, 40, 20), 6) if step.dry else ((1, 15, 16, 17, 100, 250, 333, 600, 700, 1000) * 2, 48)
    draw = random.Random(5)
    prompts = [[draw.randrange(FIRST_WORD, sizes["vocab"]) for _ in range(length)] for length in lengths]
    blocks = sum(-(-(len(prompt) + tokens) // 16) + 1 for prompt in prompts) + 16
    with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch:
        model = write_model(Path(scratch) / "model", **sizes)
        stack = Stack(
            Path(scratch) / "run",
            model,
            step.device,
            blocks,
            dtype="bfloat16",
            stored=E4M3 if rounded else "bfloat16",
            logs=step.folder,
        )
        with stack:
            step.part("start", lambda: stack.start(ENGINE))
            if "start" in step.figures:
                asked = [stack.gateway.ask(ENGINE, prompt, tokens) for prompt in prompts]
                step.part("answers", lambda: all_through(stack, asked))
                if not step.dry:
                    step.part("replays", lambda: replays(stack))
        if "answers" in step.figures:
            step.part("tokens", lambda: judged(Judge(model, torch.device(step.device), rounded), asked))
    if found := step.figures.get("tokens"):
        best, close = found["transformers_best"], found["within_rounding"]
        step.figures[SHORT] = f"{found['tokens']} tokens: {best} the best, {close} within rounding"
    return step.end()


if __name__ == "__main__":
    raise SystemExit(main())
