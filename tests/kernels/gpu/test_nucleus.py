"""Drawing from flat rows against the reference, which puts them in order."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.gpu.sampling import nucleus
from quire_kernels.gpu.sampling.nucleus import nucleus_draw, nucleus_ref
from tests.kernels.batch import DEVICE

# temperature, min-p, top-k (0: none), top-p
HOW = [(1.0, 0.0, 0, 0.9), (0.7, 0.02, 0, 1.0), (1.5, 0.0, 40, 1.0), (1.0, 0.1, 150, 0.5), (1.0, 0.0, 0, 0.0)]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces a row, the last of them in part."""
    monkeypatch.setattr(nucleus, "COLUMNS", 256)


def drawn(logits: torch.Tensor, how: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """What the kernel draws for all rows."""
    tokens = torch.full((len(logits),), -7, device=DEVICE)
    nucleus_draw(logits, torch.ones(len(logits), dtype=torch.int32, device=DEVICE), how, uniforms, tokens)
    return tokens


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_rows_draw_what_their_order_gives(how: tuple[float, float, int, float], tied: bool) -> None:
    """Along the whole range of random numbers, with equal logits and forbidden tokens."""
    size, draws = 300, 5
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(4))
    logits = (2 * logits).round() if tied else logits
    logits[0, ::9] = -torch.inf
    logits = logits.repeat(draws, 1).to(DEVICE)
    settings = torch.tensor([[how[0], how[1], how[2] or size, how[3]]] * draws, device=DEVICE)
    uniforms = ((torch.arange(draws) + 0.37) / draws).to(DEVICE)
    got, want = drawn(logits, settings, uniforms), nucleus_ref(logits, settings, uniforms)
    assert torch.equal(got, want)


def test_rows_that_are_not_meant_keep_their_token() -> None:
    """What was drawn for them elsewhere stands."""
    logits = torch.randn(3, 200, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    settings = torch.tensor([[1.0, 0.0, 200.0, 0.9]] * 3, device=DEVICE)
    uniforms = torch.tensor([0.2, 0.5, 0.999], device=DEVICE)
    tokens = torch.tensor([-7, -7, -7], device=DEVICE)
    nucleus_draw(logits, torch.tensor([1, 0, 1], dtype=torch.int32, device=DEVICE), settings, uniforms, tokens)
    want = nucleus_ref(logits, settings, uniforms)
    assert tokens.tolist() == [int(want[0]), -7, int(want[2])]


def test_a_row_that_does_not_fit_is_named() -> None:
    """Shapes, dtypes and strides are refused with the argument's name."""
    logits, four = torch.zeros(2, 8, device=DEVICE), torch.zeros(2, 4, device=DEVICE)
    ints, floats = torch.zeros(2, dtype=torch.int32, device=DEVICE), torch.zeros(2, device=DEVICE)
    with pytest.raises(ValueError, match="meant has dtype"):
        nucleus_draw(logits, floats, four, floats, ints.long())
    with pytest.raises(ValueError, match="tokens has dtype"):
        nucleus_draw(logits, ints, four, floats, ints)
    with pytest.raises(ValueError, match="settings has shape"):
        nucleus_draw(logits, ints, four[:, :3], floats, ints.long())
