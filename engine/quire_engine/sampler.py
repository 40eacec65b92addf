"""Sampler: logits of a step to one token a row.

Randomness is counter-based: the uniform number of a row is BLAKE2b(seed, continuation, position), so a token
depends on nothing but the request's seed and where it stands. The batch, the engine and any preemption in between
cannot change it, and a request resumed elsewhere goes on as it would have here.

A random row is drawn by inverting the cumulative distribution after, in this order, temperature, min-p, top-k and
top-p (the order vLLM documents), all on probabilities sorted once. Log-probabilities are those of the raw logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .transfer import to_device

_SCALE = 2.0**-64


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What one row needs: its settings and its place in the random stream.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 is off. top_p: 1 is off. min_p: 0 is off.
        seed, index, position: counter of the random number (request seed, continuation, token position).
        banned: tokens that may not be chosen (stop tokens before ``min_tokens``).
        logprobs: 0 for none, else 1 + number of alternatives.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    index: int
    position: int
    banned: tuple[int, ...] = ()
    logprobs: int = 0


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


def sample(logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
    """Choose a token for each row of ``logits`` [rows, vocabulary] (float32)."""
    choosable = _without_banned(logits, rows)
    tokens = choosable.argmax(dim=-1)
    random = [i for i, row in enumerate(rows) if row.temperature > 0]
    if random:
        at = to_device(torch.tensor(random), logits.device)
        tokens[at] = _draw(choosable[at], [rows[i] for i in random])
    chosen: list[int] = tokens.tolist()
    wanted = [i for i, row in enumerate(rows) if row.logprobs]
    if not wanted:
        return [Sampled(token) for token in chosen]
    return _with_logprobs(logits, chosen, rows, wanted)


def _without_banned(logits: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    if not any(row.banned for row in rows):
        return logits
    masked = logits.clone()
    for i, row in enumerate(rows):
        if row.banned:
            masked[i, list(row.banned)] = -torch.inf
    return masked


def _draw(logits: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    """One token a row by inverse transform; ``logits`` [rows, vocabulary], every temperature above 0."""
    column = [[row.temperature, row.min_p, row.top_k or logits.shape[1], row.top_p] for row in rows]
    settings = to_device(torch.tensor(column, dtype=torch.float64), logits.device)
    temperature, min_p, top_k, top_p = settings.hsplit(4)
    # Scaled by the largest logit first: a tiny temperature must not turn into inf - inf.
    scaled = (logits.double() - logits.double().amax(dim=1, keepdim=True)) / temperature
    probs, order = torch.softmax(scaled, dim=1).sort(dim=1, descending=True)
    rank = torch.arange(probs.shape[1], device=probs.device).expand_as(probs)
    keep = (probs >= min_p * probs[:, :1]) & (rank < top_k)
    probs = probs * keep
    probs = probs / probs.sum(dim=1, keepdim=True)
    before = probs.cumsum(dim=1) - probs
    # The most likely token always stays, also with top_p = 0.
    probs = probs * ((before < top_p) | (rank == 0))
    cumulative = probs.cumsum(dim=1)
    u = torch.tensor([[uniform(r.seed, r.index, r.position)] for r in rows], dtype=torch.float64)
    picked = torch.searchsorted(cumulative, to_device(u, logits.device) * cumulative[:, -1:], right=True)
    last = (probs > 0).sum(dim=1, keepdim=True) - 1
    return order.gather(1, torch.minimum(picked, last)).squeeze(1)


def _with_logprobs(
    logits: torch.Tensor, chosen: list[int], rows: Sequence[SampleRow], wanted: list[int]
) -> list[Sampled]:
    out = [Sampled(token) for token in chosen]
    at = to_device(torch.tensor(wanted), logits.device)
    logprobs = torch.log_softmax(logits[at].float(), dim=-1).cpu()
    for line, i in zip(logprobs, wanted, strict=True):
        top = line.topk(min(rows[i].logprobs - 1, line.shape[0]))
        out[i] = Sampled(
            chosen[i], float(line[chosen[i]]), tuple(top.indices.tolist()), tuple(float(x) for x in top.values)
        )
    return out
