"""nucleus: tokens drawn from what min-p, top-k and top-p leave of flat rows, without sorting and without the host.

Few rows need it: what is drawn from nearly always lies within the likeliest thousand. Which rows do is known on the
device alone, and the host must not wait to hear it. So this is launched for all rows, and a program whose row is not
meant ends at once.

A program looks for a value in the order of its row instead of putting the row in order: the mass above a value takes
one pass over the row, and halving the range of float32 as integers finds a value in 33 of them. Three are looked for,
one after another: where top-k ends, where top-p ends, and where the random number lies. Tokens of equal logits are in
the order of their ids, so of a group of them the last pass counts up to the one that is meant.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import check, check_device

COLUMNS = 2048  # of a row at a time


@triton.jit
def _ordered(x: tl.tensor) -> tl.tensor:
    """Float32 as integers of the same order."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _above(
    row: tl.tensor,
    vocabulary: tl.tensor,
    largest: tl.tensor,
    temperature: tl.tensor,
    min_p: tl.tensor,
    key: tl.tensor,
    MASS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Mass of the tokens above a value, or their number."""
    column = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        at = start + column
        x = tl.load(row + at, mask=at < vocabulary, other=float("-inf"))
        counted = (at < vocabulary) & (_ordered(x) > key)
        if MASS:
            weight = tl.exp((x - largest) / temperature)
            total += tl.where(counted & (weight >= min_p), weight, 0.0)
        else:
            total += tl.where(counted, 1.0, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _lowest(
    row: tl.tensor,
    vocabulary: tl.tensor,
    largest: tl.tensor,
    temperature: tl.tensor,
    min_p: tl.tensor,
    highest: tl.tensor,
    limit: tl.tensor,
    MASS: tl.constexpr,
    STRICT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The lowest value above which there is less than ``limit`` (or just as much, if that is not to be strict)."""
    low = highest - highest - 2147483649  # below all of them; a difference keeps it an integer of 64 bits
    high = highest
    for _ in range(33):
        middle = (low + high) >> 1
        found = _above(row, vocabulary, largest, temperature, min_p, middle, MASS, BLOCK)
        holds = found < limit if STRICT else found <= limit
        wide = high - low > 1
        high = tl.where(wide & holds, middle, high)
        low = tl.where(wide & (holds == 0), middle, low)
    return high


@triton.jit
def _equal(row: tl.tensor, vocabulary: tl.tensor, key: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Tokens with this value."""
    column = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        at = start + column
        x = tl.load(row + at, mask=at < vocabulary, other=float("-inf"))
        total += tl.where((at < vocabulary) & (_ordered(x) == key), 1.0, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _weight(key: tl.tensor, largest: tl.tensor, temperature: tl.tensor, min_p: tl.tensor) -> tl.tensor:
    """Of a token with this value."""
    bits = key ^ ((key >> 63) & 0x7FFFFFFF)
    weight = tl.exp((bits.to(tl.int32).to(tl.float32, bitcast=True) - largest) / temperature)
    return tl.where(weight >= min_p, weight, 0.0)


@triton.jit
def _kernel(
    logits: tl.tensor,  # [rows, vocabulary]
    meant: tl.tensor,  # [rows] int32
    settings: tl.tensor,  # [rows, 4]
    uniforms: tl.tensor,  # [rows]
    tokens: tl.tensor,  # [rows] int64
    vocabulary: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    line = tl.program_id(0).to(tl.int64)
    if tl.load(meant + line) != 0:
        row = logits + line * vocabulary
        temperature, min_p = tl.load(settings + line * 4), tl.load(settings + line * 4 + 1)
        top_k, top_p = tl.load(settings + line * 4 + 2), tl.load(settings + line * 4 + 3)
        column = tl.arange(0, BLOCK)
        most = tl.full([BLOCK], float("-inf"), tl.float32)
        for start in range(0, vocabulary, BLOCK):
            at = start + column
            most = tl.maximum(most, tl.load(row + at, mask=at < vocabulary, other=float("-inf")))
        largest = tl.max(most, axis=0)
        highest = _ordered(largest)

        # All that min-p leaves, or as much of that as top-k does.
        mass = _above(row, vocabulary, largest, temperature, min_p, highest - highest - 2147483649, True, BLOCK)
        if top_k < vocabulary:
            last = _lowest(row, vocabulary, largest, temperature, min_p, highest, top_k, False, True, BLOCK)
            left = top_k - _above(row, vocabulary, largest, temperature, min_p, last, False, BLOCK)
            at_last = left * _weight(last, largest, temperature, min_p)
            mass = _above(row, vocabulary, largest, temperature, min_p, last, True, BLOCK) + at_last

        wanted = tl.maximum(top_p, 1e-30) * mass  # of top-p 0 the likeliest token is left
        last = _lowest(row, vocabulary, largest, temperature, min_p, highest, wanted, True, True, BLOCK)
        before = _above(row, vocabulary, largest, temperature, min_p, last, True, BLOCK)
        weight = _weight(last, largest, temperature, min_p)
        kept = tl.ceil((wanted - before) / tl.maximum(weight, 1e-38))
        kept = tl.minimum(tl.maximum(kept, 1.0), _equal(row, vocabulary, last, BLOCK))

        # Never the whole: a product that rounds to it would lead behind the last token.
        target = tl.minimum(tl.load(uniforms + line), 0.999999) * (before + kept * weight)
        found = _lowest(row, vocabulary, largest, temperature, min_p, highest, target, True, False, BLOCK)
        found = tl.maximum(found, last)
        before = _above(row, vocabulary, largest, temperature, min_p, found, True, BLOCK)
        place = tl.floor((target - before) / tl.maximum(_weight(found, largest, temperature, min_p), 1e-38))
        group = tl.where(found == last, kept, _equal(row, vocabulary, found, BLOCK))
        place = tl.minimum(tl.maximum(place, 0.0), group - 1.0).to(tl.int32)

        passed = tl.zeros([1], tl.int32)
        token = tl.full([BLOCK], -1, tl.int32)
        for start in range(0, vocabulary, BLOCK):
            at = start + column
            x = tl.load(row + at, mask=at < vocabulary, other=float("-inf"))
            same = ((at < vocabulary) & (_ordered(x) == found)).to(tl.int32)
            rank = passed + tl.cumsum(same, axis=0) - 1
            token = tl.where((same != 0) & (rank == place), at, token)
            passed += tl.sum(same, axis=0)
        tl.store(tokens + line, tl.max(token, axis=0).to(tl.int64))


def nucleus_draw(
    logits: torch.Tensor, meant: torch.Tensor, settings: torch.Tensor, uniforms: torch.Tensor, tokens: torch.Tensor
) -> None:
    """Draw a token for the rows that are ``meant``.

    Args:
        logits: [rows, vocabulary] float32, contiguous.
        meant: [rows] int32, not 0 for rows to draw.
        settings: [rows, 4] float32: temperature, min-p, top-k (the vocabulary's size for none) and top-p.
        uniforms: [rows] float32, in [0, 1).
        tokens: [rows] int64, written for these rows.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    arguments = nucleus_arguments(logits, meant, settings, uniforms, tokens)
    check_device(logits=logits, meant=meant, settings=settings, uniforms=uniforms, tokens=tokens)
    _kernel[(logits.shape[0],)](**arguments, num_warps=8)


def nucleus_arguments(
    logits: torch.Tensor, meant: torch.Tensor, settings: torch.Tensor, uniforms: torch.Tensor, tokens: torch.Tensor
) -> dict[str, Any]:
    """Checked arguments of the kernel, by name."""
    rows, vocabulary = logits.shape
    check("logits", logits, (None, None), torch.float32)
    check("meant", meant, (rows,), torch.int32)
    check("settings", settings, (rows, 4), torch.float32)
    check("uniforms", uniforms, (rows,), torch.float32)
    check("tokens", tokens, (rows,), torch.int64)
    if not (logits.is_contiguous() and settings.is_contiguous()):
        raise ValueError("logits and settings must be contiguous")
    return {
        "logits": logits,
        "meant": meant,
        "settings": settings,
        "uniforms": uniforms,
        "tokens": tokens,
        "vocabulary": vocabulary,
        "BLOCK": COLUMNS,
    }


def nucleus_ref(logits: torch.Tensor, settings: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """:func:`nucleus_draw` of all rows in PyTorch: everything sorted, in float64."""
    temperature, min_p, top_k, top_p = settings.double().hsplit(4)
    values, ids = logits.double().sort(dim=1, descending=True, stable=True)
    weights = torch.exp((values - values[:, :1]) / temperature)
    rank = torch.arange(logits.shape[1], device=logits.device)
    weights = weights * ((weights >= min_p) & (rank < top_k))
    before = weights.cumsum(1) - weights
    weights = weights * ((before < top_p * weights.sum(1, keepdim=True)) | (rank == 0))
    cumulative = weights.cumsum(1)
    place = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:], right=True)
    return ids.gather(1, torch.minimum(place, (weights > 0).sum(1, keepdim=True) - 1)).squeeze(1)
