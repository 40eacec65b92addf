"""The same greedy tokens by two ways: our paged path in mixed batches, and transformers' generate, prompt by prompt.

The paged way is what an engine does, less scheduler and kvstore: prefills in chunks, decodes beside them, a beginning
that several prompts share read from one set of blocks, block tables out of order, and unwritten slots full of NaN.

transformers does not always agree with itself: with a cache it adds up in another order, and where experts are chosen
by a hair that is enough for other tokens. So an answer is also the same if it is what transformers' forward pass
chooses without a cache, at every place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from quire_engine.model.model import Model
from quire_engine.model.weights import transformers_class
from quire_kv import Layout

BLOCK = 16
NEW = 20
BUDGET = 48  # query tokens a step: every longer prompt is prefilled in chunks
HEAD = 50  # tokens that the last prompts begin with


@dataclass(frozen=True)
class Compared:
    """Answers to the same prompts.

    Attributes:
        confirmed: by answer, whether transformers' forward pass without a cache chooses ours.
    """

    paged: list[list[int]]
    eager: list[list[int]]
    confirmed: list[bool]

    @property
    def same(self) -> list[bool]:
        """By answer, whether it is ``generate``'s token by token."""
        return [ours == theirs for ours, theirs in zip(self.paged, self.eager, strict=True)]

    @property
    def differ(self) -> int:
        """Answers that transformers gives in neither way."""
        return sum(not (same or confirmed) for same, confirmed in zip(self.same, self.confirmed, strict=True))

    @property
    def distinct(self) -> list[int]:
        """Different tokens of each answer: a model that repeats itself would hide a wrong key."""
        return [len(set(answer)) for answer in self.eager]


@dataclass
class Answering:
    """A prompt on its way through the model."""

    table: np.ndarray
    tokens: list[int]
    done: int = 0
    answer: list[int] = field(default_factory=list)


def mixed_prompts(vocab: int, longest: int = 200) -> list[list[int]]:
    """Prompts of 1 to ``longest`` tokens; the last three begin with the same ``HEAD``."""
    draw = np.random.default_rng(4)
    alone = [draw.integers(7, vocab, n).tolist() for n in (1, 16, longest)]
    head = draw.integers(7, vocab, HEAD).tolist()
    return alone + [head + draw.integers(7, vocab, min(n, longest - HEAD)).tolist() for n in (1, 14, 90)]


def compare(directory: Path, model: Model, layout: Layout) -> Compared:
    """Answer the same prompts in both ways."""
    texts = mixed_prompts(model.vocab_size, min(200, model.max_model_len - NEW))
    paged = generate_paged(model, texts, torch.full(layout.shape(60), torch.nan))
    reference = _reference(directory)
    eager = generate_eager(reference, texts)
    confirmed = [choices(reference, text, ours) == ours for text, ours in zip(texts, paged, strict=True)]
    return Compared(paged, eager, confirmed)


def generate_paged(model: Model, texts: list[list[int]], arena: torch.Tensor) -> list[list[int]]:
    """All prompts at once: chunks beside decodes, and the shared head in one set of blocks."""
    model.use(CpuAttention(arena))
    free = list(np.random.default_rng(0).permutation(arena.shape[3]))
    waiting = []
    for text in texts:
        table = np.array([free.pop() for _ in range(-(-(len(text) + NEW) // BLOCK))], np.int32)
        waiting.append(Answering(table, list(text)))
    shared = HEAD // BLOCK
    for late in waiting[4:]:
        late.table[:shared] = waiting[3].table[:shared]
    running = waiting[:4]
    while any(len(request.answer) < NEW for request in waiting):
        if waiting[3].done >= HEAD and len(running) == 4:
            for late in waiting[4:]:
                late.done = shared * BLOCK
            running = waiting
        step(model, [request for request in running if len(request.answer) < NEW])
    return [request.answer for request in waiting]


def step(model: Model, running: list[Answering]) -> None:
    """One packed batch: every decode, and prefill chunks within the budget."""
    budget = BUDGET
    counts = []
    for request in sorted(running, key=lambda r: len(r.tokens) - r.done):
        counts.append(min(len(request.tokens) - request.done, budget))
        budget -= counts[-1]
    order = sorted(running, key=lambda r: len(r.tokens) - r.done)
    batch = [(request, count) for request, count in zip(order, counts, strict=True) if count]
    plan = build_plan([r.table for r, _ in batch], [r.done for r, _ in batch], [c for _, c in batch], BLOCK)
    ids = torch.tensor([t for r, c in batch for t in r.tokens[r.done : r.done + c]])
    for request, count in batch:
        request.done += count
    finished = [i for i, (request, _) in enumerate(batch) if request.done == len(request.tokens)]
    rows = torch.from_numpy(plan.row_start + plan.counts - 1)[finished]
    for i, token in zip(finished, model.forward(ids, plan, rows).argmax(-1).tolist(), strict=True):
        batch[i][0].tokens.append(token)
        batch[i][0].answer.append(token)


def _reference(directory: Path) -> Any:
    maker = transformers_class(AutoConfig.from_pretrained(directory))
    module = maker.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()
    module.generation_config.eos_token_id = None
    return module


def generate_eager(module: Any, texts: list[list[int]]) -> list[list[int]]:
    """transformers' generate, one unpadded prompt at a time, no token ending it."""
    answers = []
    for text in texts:
        ids = torch.tensor([text])
        out = module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0
        )
        answers.append(out[0, len(text) :].tolist())
    return answers


@torch.inference_mode()
def choices(module: Any, text: list[int], answer: list[int]) -> list[int]:
    """What the forward pass without a cache chooses at each place of an answer."""
    logits = module(input_ids=torch.tensor([text + answer]), use_cache=False).logits[0]
    chosen: list[int] = logits[len(text) - 1 : -1].argmax(-1).tolist()
    return chosen
