"""Drawing from what min-p, top-k and top-p leave, against the plain rule: everything sorted, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_engine.sampling import filtered
from quire_engine.sampling.filtered import FEW, draw_filtered
from quire_engine.sequences.sample_row import SampleRow
from quire_kernels.gpu.sampling import nucleus

ROUNDING = 3e-6  # float32's, of a sum of many


def row(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> SampleRow:
    return SampleRow(temperature, top_k, top_p, min_p, 0, 0, 0)


def kept(logits: torch.Tensor, how: SampleRow) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of what the filters leave of one row, the likeliest first, and the weights of them."""
    scaled = (logits.double() - logits.double().max()) / max(how.temperature, torch.finfo(torch.float32).tiny)
    weights, ids = torch.exp(scaled).sort(descending=True, stable=True)
    rank = torch.arange(len(ids))
    weights = weights * ((weights >= how.min_p * weights[0]) & (rank < (how.top_k or len(ids))))
    before = weights.cumsum(0) - weights
    weights = weights * ((before < how.top_p * weights.sum()) | (rank == 0))
    return ids, weights


def may_be(logits: torch.Tensor, how: SampleRow, uniform: float) -> set[int]:
    """The token that the plain rule draws, and those that it draws for numbers within rounding of this one or with
    settings within rounding of these."""
    found = set()
    for nudge in (-ROUNDING, 0.0, ROUNDING):
        near = row(how.temperature, how.top_k, how.top_p + nudge if how.top_p < 1 else 1.0, how.min_p * (1 + nudge))
        ids, weights = kept(logits, near)
        cumulative = weights.cumsum(0)
        for shift in (-ROUNDING, 0.0, ROUNDING):
            place = int(torch.searchsorted(cumulative, (uniform + shift) * cumulative[-1], right=True))
            found.add(int(ids[min(max(place, 0), int((weights > 0).sum()) - 1)]))
    return found


@st.composite
def rows_of(draw: st.DrawFn) -> SampleRow:
    """Every filter by itself, several of them, extreme ones."""
    share = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, width=32))
    return row(
        draw(st.one_of(st.just(1.0), st.floats(0.0625, 4, width=32), st.sampled_from([1e-6, 100.0]))),
        draw(st.one_of(st.just(0), st.integers(1, 40), st.sampled_from([FEW, FEW + 1, 5000, 10**6]))),
        draw(st.one_of(st.just(1.0), share)),
        draw(st.one_of(st.just(0.0), share, st.floats(0, 2**-10, width=32))),
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(rows_of(), min_size=1, max_size=5),
    st.sampled_from([3, 50, 1500, 6000]),
    st.sampled_from([0.0, 0.01, 1.0, 4.0]),
    st.integers(0, 2**32),
)
def test_any_rows_draw_what_the_plain_rule_draws(batch: list[SampleRow], size: int, spread: float, seed: int) -> None:
    """Peaked, flat and tied logits, some of them forbidden, in vocabularies below and above the few; and a row draws by
    itself what it draws among others."""
    draw = torch.Generator().manual_seed(seed)
    logits = (torch.randn(len(batch), size, generator=draw) * spread * 4).round() / 4
    logits[:, 1::7] = -torch.inf
    uniforms = torch.rand(len(batch), 1, generator=draw, dtype=torch.float64)
    got = draw_filtered(logits, batch, uniforms)
    for line, how in enumerate(batch):
        assert int(got[line]) in may_be(logits[line], how, float(uniforms[line]))
        alone = slice(line, line + 1)
        assert torch.equal(draw_filtered(logits[alone], [how], uniforms[alone]), got[alone])


@pytest.mark.parametrize("how", [row(top_p=0.9), row(top_p=0.9, top_k=3000), row(min_p=1e-4)])
def test_a_flat_row_draws_beyond_the_few(how: SampleRow) -> None:
    """Where what is left is more than the few, tokens beyond them come as often as they should."""
    logits = torch.randn(1, 4000, generator=torch.Generator().manual_seed(1)) * 0.1
    uniforms = ((torch.arange(500, dtype=torch.float64) + 0.5) / 500).unsqueeze(1)
    got = draw_filtered(logits.expand(500, -1).contiguous(), [how] * 500, uniforms)
    ids, weights = kept(logits[0], how)
    rank = torch.empty_like(ids).scatter_(0, ids, torch.arange(len(ids)))[got]
    few = float(weights[:FEW].sum() / weights.sum())
    assert few < 0.9
    assert float((rank < FEW).double().mean()) == pytest.approx(few, abs=0.01)
    assert int(rank.max()) < int((weights > 0).sum())


def test_on_a_gpu_a_kernel_draws_the_flat_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no others; nothing is put in order, nor looked at by the host."""
    monkeypatch.setattr(filtered, "_on_gpu", lambda _: True)
    monkeypatch.setattr(filtered, "_in_order", lambda _: pytest.fail("a vocabulary was sorted"))
    batch = [row(top_p=0.9), row(top_p=0.9, temperature=0.01), row(top_p=0.8, top_k=3000), row(min_p=1e-4)]
    logits = torch.randn(4, 4000, generator=torch.Generator().manual_seed(1)) * 0.1
    uniforms = torch.tensor([[0.97], [0.3], [0.9], [0.6]], dtype=torch.float64)
    meant: list[list[int]] = []
    draw = nucleus.nucleus_draw
    monkeypatch.setattr(nucleus, "nucleus_draw", lambda *given: meant.append(given[1].tolist()) or draw(*given))
    got = draw_filtered(logits, batch, uniforms)
    assert meant == [[1, 0, 1, 1]]
    for line, how in enumerate(batch):
        assert int(got[line]) in may_be(logits[line], how, float(uniforms[line]))


@pytest.mark.parametrize("how", [row(top_k=40, top_p=0.9), row(top_p=0.9), row(min_p=0.05)])
def test_a_vocabulary_is_not_sorted_for_a_peaked_row(how: SampleRow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few suffice, and nothing is put in order but them."""

    def sorts(_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("a vocabulary was sorted")

    monkeypatch.setattr(filtered, "_in_order", sorts)
    logits = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(2)) * 5
    uniforms = torch.rand(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got = draw_filtered(logits, [how] * 3, uniforms)
    for line in range(3):
        assert int(got[line]) in may_be(logits[line], how, float(uniforms[line]))
