"""Greedy tokens through the paged path equal transformers' own, for every family."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import Model, load_model
from tests.support.families import FAMILIES, family_model

BLOCK = 16
NEW = 20
BUDGET = 48  # query tokens a step: every longer prompt is prefilled in chunks


@dataclass
class Request:
    """A prompt on its way through the model."""

    table: np.ndarray
    tokens: list[int]
    done: int = 0
    answer: list[int] = field(default_factory=list)


def prompts(vocab: int) -> list[list[int]]:
    """Prompts of 1 to 200 tokens; the last three begin with the same 50."""
    draw = np.random.default_rng(4)
    alone = [draw.integers(7, vocab, n).tolist() for n in (1, 16, 200)]
    head = draw.integers(7, vocab, 50).tolist()
    return alone + [head + draw.integers(7, vocab, n).tolist() for n in (1, 14, 90)]


def generate_paged(model: Model, texts: list[list[int]], arena: torch.Tensor) -> list[list[int]]:
    """All prompts at once: chunks beside decodes, and the shared head in one set of blocks."""
    model.use(CpuAttention(arena))
    free = list(np.random.default_rng(0).permutation(arena.shape[3]))
    waiting = []
    for text in texts:
        table = np.array([free.pop() for _ in range(-(-(len(text) + NEW) // BLOCK))], np.int32)
        waiting.append(Request(table, list(text)))
    shared = 50 // BLOCK
    for late in waiting[4:]:
        late.table[:shared] = waiting[3].table[:shared]
    running = waiting[:4]
    while any(len(request.answer) < NEW for request in waiting):
        if waiting[3].done >= 50 and len(running) == 4:
            for late in waiting[4:]:
                late.done = shared * BLOCK
            running = waiting
        step(model, [request for request in running if len(request.answer) < NEW])
    return [request.answer for request in waiting]


def step(model: Model, running: list[Request]) -> None:
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


def generate_eager(directory, texts: list[list[int]]) -> list[list[int]]:
    """The reference: transformers' generate, eager attention, one unpadded prompt at a time."""
    module = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    answers = []
    for text in texts:
        ids = torch.tensor([text])
        out = module.generate(ids, attention_mask=torch.ones_like(ids), **options)
        answers.append(out[0, len(text) :].tolist())
    return answers


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_equal_eager_generate(family, tmp_path):
    """Mixed, chunked, prefix-sharing batches give exactly the tokens of transformers' generate."""
    directory = family_model(tmp_path, family)
    model = load_model(directory)
    layout = layout_of(directory, "float32", BLOCK)
    texts = prompts(model.vocab_size)
    arena = torch.full(layout.shape(60), torch.nan)
    answers = generate_paged(model, texts, arena)

    assert generate_eager(directory, texts) == answers
    assert min(len(set(answer)) for answer in answers) >= NEW // 3, "the model repeats itself: this proves nothing"
