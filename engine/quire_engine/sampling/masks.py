"""Masks: tokens that may not be chosen, as logits of minus infinity.

Tokens that are allowed alone come first. Then what is banned: stop tokens before ``min_tokens``, and the last token of
a bad word whose other tokens are there. Where bans would leave a row nothing to choose, they do not hold for that row:
an answer has to go on, and what its request allows alone is the stronger wish.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quire_engine.sequences.bad_words import Ids
from quire_engine.sequences.sample_row import SampleRow
from quire_engine.transfer import to_device

from .places import places

_ANY = -1  # in the place of the token that one must follow to be banned


def allow(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    """Leave the rows that name the tokens allowed no other ones; ``logits`` [rows, vocabulary] change in place."""
    wanted = [(line, row.adjustments.allowed) for line, row in enumerate(rows) if row.adjustments]
    wanted = [(line, allowed) for line, allowed in wanted if len(allowed)]
    if not wanted:
        return
    lines = to_device(torch.tensor([line for line, _ in wanted]), logits.device)
    at = places([line for line, _ in wanted], [allowed for _, allowed in wanted], logits)
    values = logits.view(-1)[at]
    logits.index_fill_(0, lines, -torch.inf)
    logits.view(-1)[at] = values


def ban(logits: torch.Tensor, rows: Sequence[SampleRow], newest: torch.Tensor | None, masked: bool = False) -> None:
    """Refuse rows what is banned; ``logits`` [rows, vocabulary] change in place.

    Args:
        newest: [rows] the last token of each row, on the device; not needed where no row has bad words.
        masked: whether a grammar has forbidden some already, so that a few more may be all that is left.
    """
    lines: list[int] = []
    tokens: list[Ids] = []
    follows: list[Ids] = []
    may_be_all = masked
    for line, row in enumerate(rows):
        words = row.adjustments.bad_words if row.adjustments else None
        if not row.banned and not words:
            continue
        always = np.array(row.banned, np.int64)
        after = last = always[:0]
        if words:
            always = np.concatenate([always, words.single])
            after, last = words.ends(row.output) if row.output is not None else (after, last)
        lines += (line, line)
        tokens += (always, last)
        follows += (np.full(len(always), _ANY), after)
        only = len(row.adjustments.allowed) if row.adjustments else 0
        may_be_all = may_be_all or len(always) + len(last) >= (only or logits.shape[1])
    if not lines:
        return
    at, flat = places(lines, tokens, logits), logits.view(-1)
    value = torch.full_like(at, -torch.inf, dtype=logits.dtype)
    if newest is not None:
        needed = to_device(torch.from_numpy(np.concatenate(follows)), logits.device)
        holds = (needed == _ANY) | (needed == newest[at // logits.shape[1]])
        value = value.masked_fill(~holds, torch.inf)
    before = flat[at]
    flat.scatter_reduce_(0, at, value, "amin")
    if may_be_all:
        nothing_left = logits.amax(dim=1) == -torch.inf
        flat[at] = torch.where(nothing_left[at // logits.shape[1]], before, flat[at])
