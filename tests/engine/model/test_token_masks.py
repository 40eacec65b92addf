"""Masks on logits: what is forbidden is never chosen, and rows without a mask keep their logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from quire_engine.model.sampler import choose_tokens, sample
from quire_engine.model.token_masks import TokenMasks, _forbidden, _spread
from quire_engine.sequences.sample_row import SampleRow
from tests.engine.model.test_sampler import row

VOCAB = 75


def words(allowed: Sequence[Sequence[int]], vocabulary: int = VOCAB) -> torch.Tensor:
    bits = np.zeros((len(allowed), (vocabulary // 32 + 1) * 32), np.uint8)
    for place, tokens in enumerate(allowed):
        bits[place, list(tokens)] = 1
    return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little").view(np.int32))


def logits(rows: int) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}])
def test_only_allowed_tokens_are_chosen(change: dict[str, float]) -> None:
    """Greedy, random and filtered rows take what their mask allows, be it one token or the last of the vocabulary."""
    allowed = [[3], [0, 31, 32, 63, 64, 74], [74], list(range(40))]
    masks = TokenMasks([0, 2, 4, 5], [0, 1, 2, 3], words(allowed))
    for seed in range(50):
        rows = [row(position=i, seed=seed, **change) for i in range(6)]
        chosen = [s.token for s in choose_tokens(logits(6), rows, masks=masks).read()]
        assert all(chosen[line] in tokens for line, tokens in zip(masks.lines, allowed, strict=True))


def test_rows_without_a_mask_are_the_same_beside_rows_with_one() -> None:
    """Logits of a row without a mask stay bit for bit, and so do its token and log-probabilities."""
    given, masks = logits(4), TokenMasks([1, 3], [0, 0], words([[5, 6]]))
    before = given.clone()
    out = masks.apply(given)
    assert torch.equal(given, before), "the raw logits are still needed"
    assert torch.equal(out[[0, 2]], given[[0, 2]])
    assert torch.equal(out[[1, 3]].isfinite().sum(1), torch.tensor([2, 2]))
    rows = [row(position=i, logprobs=3) for i in range(4)]
    alone, beside = sample(given, rows), choose_tokens(given, rows, masks=masks).read()
    assert [alone[i] for i in (0, 2)] == [beside[i] for i in (0, 2)]
    reference = torch.log_softmax(given[1], 0)
    assert beside[1].logprob == pytest.approx(float(reference[beside[1].token])), "those of the raw logits"


def test_every_row_may_have_one_mask() -> None:
    """Branches of a prompt share a mask, also where all rows have one."""
    given = logits(3)
    out = TokenMasks([0, 1, 2], [0, 1, 1], words([[1], [2, 70]])).apply(given)
    assert out.isfinite().sum(1).tolist() == [1, 2, 2]
    rows: list[SampleRow] = [row(temperature=0.0)] * 3
    assert sample(out, rows)[0].token == 1


def test_bits_are_spread_alike_on_host_and_device() -> None:
    """What numpy makes of the bits on a CPU is what shifts make of them on a device."""
    bits = torch.randint(-(2**31), 2**31 - 1, (9, 3), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    for vocabulary in (65, 75, 95, 96):
        assert torch.equal(_forbidden(bits, vocabulary), _spread(bits, vocabulary) == 0)
