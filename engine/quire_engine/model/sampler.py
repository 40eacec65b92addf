"""Sampler: logits of a step to one token a row.

Randomness is counter-based: the uniform number of a row is BLAKE2b(seed, continuation, position), so a token
depends on nothing but the request's seed and where it stands. The batch, the engine and any preemption in between
cannot change it, and a request resumed elsewhere goes on as it would have here.

What a row is chosen from are its logits as its request wants them (``adjust``).

A random row is drawn by inverting the cumulative distribution after, in this order, temperature, min-p, top-k and
top-p, along the likeliest tokens (``filtered``). A row that filters nothing out needs no order and is drawn in that of
the vocabulary. Log-probabilities are those of the raw logits.

A row that is held to a grammar takes what its mask allows: all other logits are minus infinity before anything else.

What a row draws depends on its own logits alone, bit by bit: every operation here adds up within a row, in an order
that does not depend on how many rows there are (torch's ``sum`` does, for one row of a large vocabulary). Of equal
logits the lowest id is the greedy choice, and comes first wherever tokens are in an order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quire_engine.sampling.adjust import adjust
from quire_engine.sampling.filtered import draw_filtered
from quire_engine.sampling.likeliest import likeliest
from quire_engine.sequences.sample_row import SampleRow
from quire_engine.transfer import to_device, to_host

from .token_masks import TokenMasks

_SCALE = 2.0**-64


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token, and its log-probabilities if they were asked for (natural log)."""

    token: int
    logprob: float = 0.0
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


def uniform(seed: int, index: int, position: int) -> float:
    """The random number in [0, 1) of this place, the same on every machine."""
    counter = seed.to_bytes(8, "little") + index.to_bytes(4, "little") + position.to_bytes(4, "little")
    return int.from_bytes(hashlib.blake2b(counter, digest_size=8).digest(), "little") * _SCALE


@dataclass(frozen=True, slots=True)
class Choice:
    """Tokens chosen for some rows, and what of it is on its way to the host.

    Attributes:
        tokens: [rows] int64, on the device: what comes next may use them before the host has seen them.
    """

    tokens: torch.Tensor
    _rows: Sequence[SampleRow]
    _chosen: torch.Tensor
    _logprobs: tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor] | None

    def read(self) -> list[Sampled]:
        """The tokens; only when the work that chose them is seen complete."""
        out = [Sampled(token) for token in self._chosen.tolist()]
        if self._logprobs is not None:
            wanted, own, ids, values = self._logprobs
            lines = zip(wanted, own.tolist(), ids.tolist(), values.tolist(), strict=True)
            for i, logprob, top_ids, top in lines:
                count = self._rows[i].logprobs - 1
                out[i] = Sampled(out[i].token, logprob, tuple(top_ids[:count]), tuple(top[:count]))
        return out


def choose_tokens(
    logits: torch.Tensor,
    rows: Sequence[SampleRow],
    newest: torch.Tensor | None = None,
    masks: TokenMasks | None = None,
) -> Choice:
    """Choose a token for each row of ``logits`` [rows, vocabulary] (float32), without waiting for it. They may change.

    Args:
        newest: [rows] the last token of each row, on the device; needed where a row ``looks_back``.
        masks: of the rows that are held to a grammar.
    """
    wanted = [i for i, row in enumerate(rows) if row.logprobs]
    given = logits[to_device(torch.tensor(wanted), logits.device)] if wanted else logits[:0]
    masked = masks is not None and bool(masks.lines)
    choosable = adjust(masks.apply(logits) if masks and masked else logits, rows, newest, masked)
    tokens = choosable.argmax(dim=-1)
    for filtered, draw in ((False, _draw), (True, draw_filtered)):
        chosen = [i for i, row in enumerate(rows) if row.temperature > 0 and row.filtered == filtered]
        if chosen:
            at, some = to_device(torch.tensor(chosen), logits.device), [rows[i] for i in chosen]
            tokens[at] = draw(choosable[at], some, _uniforms(some, logits.device))
    return Choice(tokens, rows, to_host(tokens), _logprobs(given, tokens, rows, wanted) if wanted else None)


def sample(logits: torch.Tensor, rows: Sequence[SampleRow], newest: torch.Tensor | None = None) -> list[Sampled]:
    """:func:`choose_tokens`, waited for: ``logits`` on the host."""
    return choose_tokens(logits, rows, newest).read()


def _draw(logits: torch.Tensor, rows: Sequence[SampleRow], uniforms: torch.Tensor) -> torch.Tensor:
    """One token a row of all tokens, by inverse transform; ``logits`` [rows, vocabulary], temperatures above 0."""
    tiny = torch.finfo(torch.float32).tiny
    temperature = to_device(torch.tensor([[max(row.temperature, tiny)] for row in rows]), logits.device)
    # Scaled by the largest logit first: a tiny temperature must not turn into inf - inf.
    scaled = (logits.float() - logits.amax(dim=1, keepdim=True)) / temperature
    cumulative = torch.softmax(scaled, dim=1).cumsum(dim=1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    picked = torch.searchsorted(cumulative, uniforms * total, right=True)
    return torch.minimum(picked, torch.searchsorted(cumulative, total)).squeeze(1)  # a product may round to the total


def _uniforms(rows: Sequence[SampleRow], device: torch.device) -> torch.Tensor:
    """Each row's random number, [rows, 1] float64."""
    drawn = [[uniform(row.seed, row.index, row.position)] for row in rows]
    return to_device(torch.tensor(drawn, dtype=torch.float64), device)


def _logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, rows: Sequence[SampleRow], wanted: list[int]
) -> tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows ``wanted``, the log-probabilities of their tokens, and as many of the likeliest as any row asks for;
    ``logits``: theirs, as the model gave them."""
    at = to_device(torch.tensor(wanted), logits.device)
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    most = min(max(rows[i].logprobs - 1 for i in wanted), logits.shape[1])
    ids, values = likeliest(logprobs, most)
    own = logprobs.gather(1, tokens[at].unsqueeze(1)).squeeze(1)
    return wanted, to_host(own), to_host(ids), to_host(values)
