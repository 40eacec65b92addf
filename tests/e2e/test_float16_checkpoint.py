"""A checkpoint in float16 on a processor that has no arithmetic for it: a stack computes in another, and says so."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.models.tiny import FIRST_WORD, make_model
from quire_engine.checkpoint.weights.float16 import CHOSEN, INSTEAD, has_float16
from tests.support.reference import Reference
from tests.support.stack import running_stack

VOCAB, NEW, CLEAR = 384, 8, 0.3  # CLEAR: of logits, more than bfloat16 rounds off on the way


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A tiny model whose checkpoint is in float16."""
    if has_float16():
        pytest.skip("this processor computes in float16")
    directory = make_model(tmp_path / "model", vocab=VOCAB)
    AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float16).save_pretrained(directory)
    return directory


@pytest.mark.slow
@pytest.mark.process
def test_it_answers_in_the_type_that_was_chosen(half: Path, tmp_path: Path) -> None:
    """Its tokens are transformers' own in that type, and the log says what was chosen and what it costs."""
    draw = random.Random(4)
    right = Reference(half, getattr(torch, INSTEAD)).decisive(
        lambda: [draw.randrange(FIRST_WORD, VOCAB) for _ in range(draw.randrange(3, 90))], NEW, prompts=6, margin=CLEAR
    )
    with running_stack(tmp_path, half, "--attention=cpu", engines=1, blocks=200) as stack:
        for prompt, tokens in right.items():
            answer = stack.complete(list(prompt), max_tokens=NEW, ignore_eos=True)
            assert answer["choices"][0]["token_ids"] == tokens
        assert stack.log.read_text().count(CHOSEN) == 2, "of prepare, and on the screen"
