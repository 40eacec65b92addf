"""The sampler: settings, random stream, log-probabilities."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from quire_engine.model.sampler import sample, uniform
from quire_engine.sequences.adjustments import Adjustments
from quire_engine.sequences.sample_row import SampleRow
from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import pack_u32


def row(**changes: object) -> SampleRow:
    base = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7, "index": 0, "position": 0}
    return SampleRow(**{**base, **changes})  # type: ignore[arg-type]


def drawn(logits: list[float], draws: int = 4000, **changes: object) -> Counter[int]:
    rows = [row(position=i, **changes) for i in range(draws)]
    return Counter(s.token for s in sample(torch.tensor([logits]).expand(draws, -1), rows))


def test_greedy_takes_the_largest_logit() -> None:
    """Temperature 0 takes the largest logit, whatever the other settings are."""
    assert sample(torch.tensor([[0.0, 3.0, 2.0]]), [row(temperature=0.0, top_k=2, seed=9)])[0].token == 1


def test_frequencies_follow_the_softmax() -> None:
    """Tokens are drawn as often as temperature and logits say."""
    seen = drawn([2.0, 1.0, 0.0, -1.0], temperature=0.7)
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0, -1.0]) / 0.7, 0)
    for token, p in enumerate(expected.tolist()):
        assert abs(seen[token] / 4000 - p) < 4 * (p * (1 - p) / 4000) ** 0.5 + 1e-3


def test_impossible_tokens_are_never_drawn() -> None:
    """Tokens of probability 0 at either end of the vocabulary are not drawn, nor with the largest random number."""
    inf = float("inf")
    assert set(drawn([-inf, 0.0, 0.5, -inf])) == {1, 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quire_engine.model.sampler.uniform", lambda *_: 1.0)
        assert sample(torch.tensor([[-inf, 0.0, 0.5, -inf]]), [row()])[0].token == 2


def test_top_k_keeps_k_tokens() -> None:
    """top_k = 2 draws the two likeliest tokens and no other."""
    assert set(drawn([1.0, 1.1, 1.2, 1.3], top_k=2)) == {2, 3}


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    """top_p keeps tokens until their mass reaches p, the one that crosses it included."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert set(drawn(logits, top_p=0.7)) == {0, 1}
    assert set(drawn(logits, top_p=0.0)) == {0}


def test_min_p_is_relative_to_the_likeliest() -> None:
    """min_p drops tokens less likely than that share of the likeliest one."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert set(drawn(logits, min_p=0.5)) == {0, 1}


def test_draws_depend_on_seed_index_and_position_only() -> None:
    """The same place in the random stream gives the same token in any batch."""
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    rows = [
        row(seed=s, index=i, position=p)
        for s, i, p in [(1, 0, 5), (1, 1, 5), (2, 0, 5), (1, 0, 6), (1, 2, 9), (3, 3, 3)]
    ]
    alone = [sample(logits[i : i + 1], [rows[i]])[0].token for i in range(6)]
    assert [s.token for s in sample(logits, rows)] == alone
    shuffled = [5, 0, 3, 1, 4, 2]
    assert [s.token for s in sample(logits[shuffled], [rows[i] for i in shuffled])] == [alone[i] for i in shuffled]
    assert len({uniform(1, 0, 5), uniform(1, 1, 5), uniform(2, 0, 5), uniform(1, 0, 6)}) == 4


def test_mixed_batch_keeps_rows_apart() -> None:
    """Greedy and random rows, with and without log-probabilities, share one batch."""
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(2))
    out = sample(logits, [row(temperature=0.0), row(logprobs=4), row(temperature=0.0, logprobs=1)])
    assert out[0].token == int(logits[0].argmax())
    assert out[0].top_ids == ()
    reference = torch.log_softmax(logits[1], 0)
    assert out[1].logprob == pytest.approx(float(reference[out[1].token]))
    assert list(out[1].top_ids) == reference.topk(3).indices.tolist()
    assert out[2].top_ids == ()
    assert out[2].logprob == pytest.approx(float(torch.log_softmax(logits[2], 0).max()))


def test_banned_tokens_are_never_chosen() -> None:
    """Stop tokens before min_tokens are chosen neither greedily nor at random."""
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    assert sample(logits, [row(temperature=0.0, banned=(0,))])[0].token == 1
    assert 0 not in drawn([5.0, 1.0, 0.0], banned=(0,), draws=200)


def test_tiny_temperature_is_finite() -> None:
    """A temperature close to 0 behaves as greedy instead of overflowing."""
    assert set(drawn([80.0, 79.0, -80.0], temperature=1e-6, draws=50)) == {0}


def test_log_probabilities_are_those_of_the_model() -> None:
    """The token is the one the bias wants, with the probability that it had before."""
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    wanted = Adjustments.of(Sampling(9, bias_token_ids=pack_u32([2]), bias=(100.0,)), pack_u32([0]))
    found = sample(logits.clone(), [row(temperature=0.0, logprobs=2, adjustments=wanted)])[0]
    assert found.token == 2
    assert found.logprob == pytest.approx(float(torch.log_softmax(logits[0], 0)[2]))
    assert found.top_ids == (0,)


def test_of_equal_logits_the_lowest_id_comes_first() -> None:
    """Greedy, and among the likeliest, however many of these are wanted; beside any other rows."""
    logits = torch.zeros(1, 70_000)  # more than torch divides among threads
    logits[0, [69_000, 40_000, 500]] = 3.0
    logits[0, [7, 60_000]] = 5.0
    for most in (1, 2, 3, 4, 5):
        rows = [row(temperature=0.0, logprobs=most + 1), row(temperature=0.0, logprobs=200)]
        first, _ = sample(logits.expand(2, -1).contiguous(), rows)
        (alone,) = sample(logits, rows[:1])
        assert (first.token, first.top_ids) == (7, (7, 60_000, 500, 40_000, 69_000)[:most])
        assert alone == first


@pytest.mark.parametrize("how", [{}, {"top_p": 0.8, "top_k": 5000, "min_p": 1e-5}, {"temperature": 0.0}])
def test_a_row_is_drawn_by_itself(how: dict[str, float]) -> None:
    """In a large vocabulary a row alone gives the bits that it gives among others."""
    logits = torch.randn(12, 50_001, generator=torch.Generator().manual_seed(2)) * 4
    rows = [row(position=i, logprobs=3, **how) for i in range(12)]
    assert [sample(logits[i : i + 1], rows[i : i + 1])[0] for i in range(12)] == sample(logits, rows)
