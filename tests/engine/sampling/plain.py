"""A row and its request, and a plain reading of what is done to its logits: token by token, in Python."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass

import torch

from quire_engine.sequences.adjustments import Adjustments
from quire_engine.sequences.sample_row import SampleRow
from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import pack_u32, unpack_u32

INF = float("inf")


@dataclass(frozen=True)
class Case:
    """One row: its request, its prompt and the answer so far."""

    how: Sampling
    prompt: list[int]
    answer: list[int]
    banned: tuple[int, ...] = ()

    def row(self) -> SampleRow:
        wanted = Adjustments.of(self.how, pack_u32(self.prompt))
        output = None
        if wanted is not None and self.answer:
            known = self.answer[:-1]
            output = array("I", known if wanted.reach is None else known[len(known) - min(wanted.reach, len(known)) :])
        return SampleRow(0.0, 0, 1.0, 0.0, 0, 0, 0, self.banned, 0, wanted, output)

    @property
    def newest(self) -> int:
        return (self.prompt + self.answer)[-1]


def plainly(logits: torch.Tensor, case: Case) -> torch.Tensor:
    """The same as ``adjust``, of one row."""
    how, out = case.how, logits.clone()
    for place, value in enumerate(how.bias):
        out[unpack_u32(how.bias_token_ids)[place]] += value
    times = Counter(case.answer)
    for seen in set(case.prompt + case.answer):
        value = out[seen]
        value = value / how.repetition_penalty if value > 0 else value * how.repetition_penalty
        if times[seen]:
            value = value - how.frequency_penalty * times[seen] - how.presence_penalty
        out[seen] = value
    if how.allowed_token_ids:
        allowed = set(unpack_u32(how.allowed_token_ids))
        out = torch.tensor([v if i in allowed else -INF for i, v in enumerate(out.tolist())])
    before = out.clone()
    for word in (unpack_u32(packed).tolist() for packed in how.bad_words):
        if len(word) - 1 <= len(case.answer) and case.answer[len(case.answer) - len(word) + 1 :] == word[:-1]:
            out[word[-1]] = -INF
    for banned in case.banned:
        out[banned] = -INF
    return before if bool((out == -INF).all()) else out
