"""Whether a model's rows depend on their step, as an engine finds it out at load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from quire_engine.checkpoint.layout import layout_of
from quire_engine.model import model as model_room
from quire_engine.model.model import load_model
from quire_engine.model.selftest.invariance import batch_dependence
from tests.support.families import FAMILIES, family_model
from tests.support.host_library import need_host_library

need_host_library()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_depends_on_the_step(family, dtype, tmp_path):
    """Logits of every family are the same bits, with windows, soft-cap, biases and norms of their own."""
    path = family_model(tmp_path, family)
    model = load_model(path, dtype)
    assert batch_dependence(model, layout_of(path, dtype, 16)) == ""
    assert model.backend is None


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_any_block_size(block_size, tmp_path):
    """Also where blocks and tiles of keys end at different places."""
    path = family_model(tmp_path, "qwen3")
    assert batch_dependence(load_model(path), layout_of(path, "float32", block_size)) == ""


@pytest.mark.parametrize(
    ("fault", "dtype"), [("linear", "float32"), ("attention", "float32"), ("attention", "bfloat16")]
)
def test_each_dependence_is_seen(fault, dtype, tmp_path, monkeypatch):
    """torch's own products and PyTorch's attention are told, with how much logits differ."""
    path = family_model(tmp_path, "llama")
    if fault == "linear":
        monkeypatch.setattr(model_room, "fuse_linear", lambda _: 0)
    elif fault == "attention":
        monkeypatch.setattr("quire_engine.attention.cpu.attention.supports", lambda _: False)
    found = batch_dependence(load_model(path, dtype), layout_of(path, dtype, 16))
    assert "tokens differ, by" in found
