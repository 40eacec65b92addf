"""Rotary positions in one pass: within a step, where it is proved to be the same, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from quire_engine.attention.hook import Step, running
from quire_engine.model.fused import rotary
from quire_engine.model.fused.rotary import ROTARY_FUNCTION, fuse_rotary
from quire_kernels.cpu import host_library
from tests.support.host_library import need_host_library

need_host_library()

STEP = Step(config=None, backend=None, plan=None)


@pytest.fixture
def calls(monkeypatch):
    """How often our kernel is called."""
    seen = []
    kernel = rotary.cpu_rotate
    monkeypatch.setattr(rotary, "cpu_rotate", lambda *a: seen.append(1) or kernel(*a))
    return seen


@pytest.fixture
def rotate(monkeypatch):
    """The function of llama's modelling file, with ours in front of it."""
    original = getattr(modeling_llama, ROTARY_FUNCTION)
    monkeypatch.setattr(modeling_llama, ROTARY_FUNCTION, getattr(original, "before_quire", original))
    assert fuse_rotary(modeling_llama.LlamaRMSNorm(32)) == 1
    return getattr(modeling_llama, ROTARY_FUNCTION)


def problem(width=64, batch=1, dtype=torch.float32):
    """Queries and keys as a model has them, and angles."""
    torch.manual_seed(2)
    q = torch.randn(batch, 5, 6, width, dtype=dtype).transpose(1, 2)
    k = torch.randn(batch, 5, 2, width, dtype=dtype).transpose(1, 2)
    return q, k, *torch.randn(2, batch, 5, width, dtype=dtype)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 0.0)])
def test_same_rotation_in_a_step(rotate, calls, dtype, rounding):
    """Inside a step ours is called, and gives what the model's own function gives; in bfloat16 bit by bit."""
    expected = rotate.before_quire(*problem(dtype=dtype))
    calls.clear()
    with running(STEP):
        got = rotate(*problem(dtype=dtype))
    assert len(calls) == 2
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rounding, atol=rounding)


def test_others_keep_their_function(rotate, calls):
    """Outside a step, and for forms that the kernel does not know, the model's own function is called."""
    calls.clear()
    rotate(*problem())
    with running(STEP):
        rotate(*problem(), unsqueeze_dim=1)
        for form in ({"width": 24}, {"batch": 2}, {"dtype": torch.float64}):
            got, expected = rotate(*problem(**form)), rotate.before_quire(*problem(**form))
            assert all(map(torch.equal, got, expected))
    assert not calls


def test_replaced_once(rotate):
    """A second model of the same file finds ours there already."""
    assert fuse_rotary(modeling_llama.LlamaRMSNorm(32)) == 1
    assert getattr(modeling_llama, ROTARY_FUNCTION) is rotate


def test_what_rotates_otherwise_is_left_alone():
    """A file whose function turns neighbours, and a model that computes in another type, keep what they have."""
    original = getattr(modeling_cohere, ROTARY_FUNCTION)
    assert fuse_rotary(modeling_cohere.CohereLayerNorm(32)) == 0
    assert getattr(modeling_cohere, ROTARY_FUNCTION) is original
    assert fuse_rotary(modeling_llama.LlamaRMSNorm(32).to(torch.half)) == 0


def test_a_type_in_which_it_differs_keeps_the_function(rotate, calls, monkeypatch):
    """A function that rounds otherwise in bfloat16 is replaced in float32 alone."""

    def wide(q, k, cos, sin):
        found = rotate.before_quire(q.float(), k.float(), cos.float(), sin.float())
        return tuple(x.to(q.dtype) for x in found)

    monkeypatch.setattr(modeling_llama, ROTARY_FUNCTION, wide)
    assert fuse_rotary(modeling_llama.LlamaRMSNorm(32)) == 1
    assert fuse_rotary(modeling_llama.LlamaRMSNorm(32).bfloat16()) == 0
    calls.clear()
    with running(STEP):
        getattr(modeling_llama, ROTARY_FUNCTION)(*problem(dtype=torch.bfloat16))
    assert not calls


def test_without_a_compiler_nothing_is_replaced(monkeypatch):
    """Where there is no compiled library, the function stays."""

    def missing():
        raise host_library.NoHostLibrary("no compiler")

    original = getattr(
        getattr(modeling_llama, ROTARY_FUNCTION), "before_quire", getattr(modeling_llama, ROTARY_FUNCTION)
    )
    monkeypatch.setattr(modeling_llama, ROTARY_FUNCTION, original)
    monkeypatch.setattr("quire_kernels.cpu.rotate.load", missing)
    assert fuse_rotary(modeling_llama.LlamaRMSNorm(32)) == 0
    assert getattr(modeling_llama, ROTARY_FUNCTION) is original
