"""What transformers itself generates: eager attention, one unpadded prompt at a time, fp32."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.models.tiny import FIRST_WORD

MARGIN = 2e-4  # logits; about ten times what the order of additions changes


class TooClose(Exception):
    """The two best tokens are too close for an exact comparison."""


class Reference:
    """The model as transformers runs it."""

    def __init__(self, directory: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="eager"
        ).eval()

    @torch.inference_mode()
    def greedy(self, prompt: list[int], tokens: int, margin: float = MARGIN, cache: Any = None) -> list[int]:
        """``tokens`` greedy tokens after ``prompt``, end-of-sequence ignored; ``cache`` keeps the keys and values.

        Raises TooClose where two tokens are nearly equally likely: rounding alone then decides, here and there.
        """
        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            past_key_values=cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = torch.cat(out.logits).topk(2).values
        if float((best[:, 0] - best[:, 1]).min()) < margin:
            raise TooClose(prompt)
        generated: list[int] = out.sequences[0, len(prompt) :].tolist()
        return generated

    def decisive(
        self,
        draw: Callable[[], list[int]],
        tokens: int,
        prompts: int,
        margin: float = MARGIN,
        cache: Callable[[], Any] = lambda: None,
    ) -> dict[tuple[int, ...], list[int]]:
        """``prompts`` drawn prompts and their greedy tokens; prompts that are too close are drawn again."""
        out: dict[tuple[int, ...], list[int]] = {}
        while len(out) < prompts:
            prompt = draw()
            with suppress(TooClose):
                out[tuple(prompt)] = self.greedy(prompt, tokens, margin, cache())
        return out

    def prompts(
        self,
        lengths: tuple[int, ...],
        shared: int,
        tokens: int,
        vocab: int,
        margin: float = MARGIN,
        cache: Callable[[], Any] = lambda: None,
    ) -> dict[tuple[int, ...], list[int]]:
        """A decisive prompt of each length and its greedy tokens; the longer ones begin with the same ``shared``."""
        rng = random.Random(3)

        def words(n: int) -> list[int]:
            return [rng.randrange(FIRST_WORD, vocab) for _ in range(n)]

        prefix = words(shared)
        out: dict[tuple[int, ...], list[int]] = {}
        for length in lengths:
            begin = prefix if length > shared else []
            draw = lambda b=begin, n=length: b + words(n - len(b))  # noqa: E731
            out |= self.decisive(draw, tokens, 1, margin, cache)
        return out
