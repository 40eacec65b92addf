"""What requests want done to their logits, against a plain reading of it, row by row and token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import NoBadWordsLogitsProcessor, RepetitionPenaltyLogitsProcessor

from quire_engine.sampling.adjust import adjust
from quire_engine.sequences.adjustments import Adjustments
from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import pack_u32
from tests.engine.sampling.plain import INF, Case, plainly

VOCAB = 12
token = st.integers(0, VOCAB - 1)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows that ask for nothing, for one thing, or for all of them at once."""

    def some(strategy: st.SearchStrategy[list[int]]) -> list[int]:
        return draw(st.one_of(st.just([]), strategy))

    biased = some(st.lists(token, unique=True, max_size=4))
    penalty = st.one_of(st.just(0.0), st.floats(-2, 2, width=32))
    how = Sampling(
        9,
        frequency_penalty=draw(penalty),
        presence_penalty=draw(penalty),
        repetition_penalty=draw(st.one_of(st.just(1.0), st.floats(0.125, 3, width=32))),
        bias_token_ids=pack_u32(biased),
        bias=tuple(draw(st.floats(-100, 100, width=32)) for _ in biased),
        allowed_token_ids=pack_u32(some(st.lists(token, max_size=6))),
        bad_words=tuple(pack_u32(w) for w in draw(st.lists(st.lists(token, min_size=1, max_size=4), max_size=5))),
    )
    answer = some(st.lists(st.sampled_from([1, 2, 3]) | token, max_size=8))
    return Case(how, draw(st.lists(token, min_size=1, max_size=8)), answer, tuple(some(st.lists(token, max_size=3))))


@settings(deadline=None)
@given(st.lists(cases(), min_size=1, max_size=6), st.integers(0, 2**32))
def test_a_batch_is_adjusted_as_its_rows_would_be_one_by_one(batch: list[Case], seed: int) -> None:
    """Any mixture of rows, and to the last bit as each alone."""
    logits = torch.randn(len(batch), VOCAB, generator=torch.Generator().manual_seed(seed)) * 4
    newest = torch.tensor([case.newest for case in batch])
    got = adjust(logits.clone(), [case.row() for case in batch], newest)
    torch.testing.assert_close(got, torch.stack([plainly(*of) for of in zip(logits, batch, strict=True)]))
    alone = [adjust(logits[i : i + 1].clone(), [case.row()], newest[i : i + 1]) for i, case in enumerate(batch)]
    assert torch.equal(got, torch.cat(alone))


def test_rows_that_ask_for_nothing_cost_nothing() -> None:
    """Their logits come back as they are, and not a copy."""
    logits = torch.randn(2, VOCAB)
    rows = [Case(Sampling(9, temperature=0.5, top_k=3), [1], [2]).row()] * 2
    kept = logits.clone()
    assert adjust(logits, rows, None) is logits
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
def test_repetition_is_that_of_transformers(penalty: float) -> None:
    """Of prompt and answer together."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(3))
    case = Case(Sampling(9, repetition_penalty=penalty), [3, 4, 4, 40], [7, 3, 9])
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([case.prompt + case.answer]), logits.clone())
    assert torch.equal(adjust(logits, [case.row()], torch.tensor([9])), theirs)


def test_bad_words_are_those_of_transformers_in_the_answer() -> None:
    """Which looks at the prompt, too: so there is none of the words in it."""
    words = [[5], [1, 2], [9, 1, 3], [2, 4], [1]]
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(4))
    case = Case(Sampling(9, bad_words=tuple(map(pack_u32, words))), [0, 6], [9, 1])
    theirs = NoBadWordsLogitsProcessor(words, eos_token_id=VOCAB - 1)(torch.tensor([[0, 6, 9, 1]]), logits.clone())
    ours = adjust(logits, [case.row()], torch.tensor([1]))
    assert torch.equal(ours, theirs)
    assert (ours[0] == -INF).nonzero().flatten().tolist() == [1, 2, 3, 5]


def test_a_word_is_not_completed_over_the_end_of_the_prompt() -> None:
    """As in vLLM, only what was generated begins one."""
    logits = torch.zeros(1, VOCAB)
    how = Sampling(9, bad_words=(pack_u32([1, 2]), pack_u32([0, 1, 3])))
    assert torch.equal(adjust(logits.clone(), [Case(how, [0, 1], []).row()], torch.tensor([1])), logits)
    after_one = adjust(logits, [Case(how, [0], [1]).row()], torch.tensor([1]))
    assert (after_one[0] == -INF).nonzero().flatten().tolist() == [2]


def test_a_bias_without_its_token_is_no_request() -> None:
    """As many values as tokens."""
    with pytest.raises(ValueError, match="bias"):
        Adjustments.of(Sampling(9, bias=(1.0,)), pack_u32([0]))
