"""Adjust: the logits that tokens are chosen from, made of those that the model gave.

In this order, which is vLLM's: bias, penalties, then the masks; temperature and what else shapes the distribution come
after (``sampler``), and log-probabilities are those of the logits before. Rows that ask for nothing keep their logits,
and a step of such rows costs one look at each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quire_engine.sequences.sample_row import SampleRow
from quire_engine.transfer import to_device

from .masks import allow, ban
from .penalties import penalize
from .places import places


def adjust(
    logits: torch.Tensor, rows: Sequence[SampleRow], newest: torch.Tensor | None, masked: bool = False
) -> torch.Tensor:
    """``logits`` [rows, vocabulary] as tokens are to be chosen from them. They change in place where they can: a copy
    would cost more than all that is asked for.

    Args:
        newest: [rows] the last token of each row, on the device; needed where a row ``looks_back``.
        masked: whether a grammar has forbidden some of them already.
    """
    if not any(row.adjustments or row.banned for row in rows):
        return logits
    adjusted = logits.contiguous()
    _add_bias(adjusted, rows)
    if newest is not None:
        penalize(adjusted, rows, newest)
    allow(adjusted, rows)
    ban(adjusted, rows, newest, masked)
    return adjusted


def _add_bias(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    wanted = [(line, row.adjustments) for line, row in enumerate(rows) if row.adjustments and len(row.adjustments.bias)]
    if wanted:
        at = places([line for line, _ in wanted], [of.bias_ids for _, of in wanted], logits)
        bias = to_device(torch.from_numpy(np.concatenate([of.bias for _, of in wanted])), logits.device)
        logits.view(-1).index_add_(0, at, bias)
