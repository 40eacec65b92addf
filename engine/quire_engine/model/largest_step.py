"""The largest step, computed once before the first request.

It shows whether the step's tensors fit beside weights and pool while nothing is lost if they do not, and torch's
allocator keeps what it took for them, so that no neighbour on the GPU has it when such a step comes. Kernels are
compiled and libraries loaded on the way, which would otherwise stall the first answers.

It stores nothing, reads one block over and over, and what it draws goes nowhere. Its logits are zeros: what a block of
somebody's holds must not reach a sampler, and may be no numbers.
"""

from __future__ import annotations

import time

import numpy as np
import structlog
import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.sampling.likeliest import likeliest
from quire_engine.sequences.sample_row import SampleRow
from quire_engine.sequences.step_plan import SCORED_TOKENS

from .model import Model
from .sampler import choose_tokens

TOP = 20  # log-probabilities that a row asks for

log = structlog.get_logger()


@torch.inference_mode()
def compute_largest_step(model: Model, backend: AttentionBackend, tokens: int, sequences: int) -> None:
    """Compute a step of ``tokens`` prompt tokens of up to ``sequences`` sequences, score and draw as many as any may.

    ``backend``: the one that ``model`` uses. Raises OutOfMemoryError.
    """
    began = time.monotonic()
    plan = _plan(model, backend, tokens, sequences)
    size = len(plan.positions)
    rows = min(size, len(plan.counts) + SCORED_TOKENS)
    logits = model.forward(torch.zeros(size, dtype=torch.int64), plan, torch.arange(rows)).zero_()
    drawn = min(rows, sequences)
    # The dearest way to draw; a row differs from another by its number only.
    how = [SampleRow(1.0, 0, 0.9, 0.0, 0, 0, row, logprobs=1 + TOP) for row in range(drawn)]
    choose_tokens(logits[:drawn], how)
    if rows > drawn:
        likeliest(torch.log_softmax(logits[drawn:], dim=-1), min(TOP, model.vocab_size))
    held = {}
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
        held["bytes"] = torch.cuda.memory_reserved(model.device)
    log.info("largest_step_computed", tokens=size, sequences=drawn, seconds=round(time.monotonic() - began, 2), **held)


def _plan(model: Model, backend: AttentionBackend, tokens: int, sequences: int) -> AttentionPlan:
    """As many prompts as there may be, of about one length, which the model's longest sequence bounds."""
    number = min(sequences, tokens)
    counts = [min(tokens // number + (i < tokens % number), model.max_model_len) for i in range(number)]
    table = np.zeros(-(-counts[0] // backend.block_size), np.int32)
    plan = build_plan([table] * number, [0] * number, counts, backend.block_size, group=False)
    plan.slots[:] = -1
    return plan
