"""PromptScores: log-probabilities of the tokens of prompts, where they are wanted.

Each token's is that of the logits one row before it, so those rows' logits are computed besides the ones that draw. A
step has few of them (``StepPlan.scored_left``), however long the prompts are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from quire_engine.sampling.likeliest import likeliest
from quire_engine.sequences.sequence import Request, Sequence
from quire_engine.transfer import to_device, to_host
from quire_proto.gateway_link import TokenLogprob
from quire_proto.wire.u32 import pack_u32

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class PromptScores:
    """What of the prompts a step scores.

    Attributes:
        rows: of the batch, whose logits are needed.
        tokens: that follow each of them.
        pieces: requests, the place of their first token here in ``Request.prompt_logprobs``, and how many there are.
    """

    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    pieces: list[tuple[Request, int, int]] = field(default_factory=list)
    _found: Found | None = None

    def add(self, sequence: Sequence, count: int, row: int) -> None:
        """``count`` tokens of the sequence are computed, from this row on."""
        count = min(count, sequence.unscored)
        if count:
            first = sequence.launched
            self.rows += range(row, row + count)
            self.tokens += sequence.tokens[first + 1 : first + 1 + count]
            self.pieces.append((sequence.request, first, count))

    def compute(self, logits: torch.Tensor) -> None:
        """Of ``logits`` [rows, vocabulary], without waiting for it."""
        most = max(request.sampling.prompt_logprobs for request, _, _ in self.pieces) - 1
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        ids, values = likeliest(logprobs, min(most, logits.shape[1]))
        tokens = to_device(torch.tensor(self.tokens).unsqueeze(1), logits.device)
        own = logprobs.gather(1, tokens)
        ranks = (logprobs > own).sum(dim=1) + 1
        self._found = to_host(own.squeeze(1)), to_host(ranks), to_host(ids), to_host(values)

    def read(self) -> None:
        """Give the requests theirs; only when the work is seen complete."""
        if self._found is None:
            return
        lines = zip(*(found.tolist() for found in self._found), strict=True)
        for request, first, count in self.pieces:
            most = request.sampling.prompt_logprobs - 1
            request.prompt_logprobs[first : first + count] = [
                TokenLogprob(own, pack_u32(ids[:most]), tuple(values[:most]), rank)
                for _, (own, rank, ids, values) in zip(range(count), lines, strict=False)
            ]
