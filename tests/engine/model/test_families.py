"""Tiny checkpoints of a dozen architectures, from all that transformers has: their tokens, or the reason why not."""

from __future__ import annotations

import pytest

from bench.families.cases import all_cases
from bench.families.trial import EQUAL, REFUSED, make_checkpoint, try_case
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import ModelRefused, load_model
from quire_engine.model.selftest.selftest import self_test

CASES = all_cases()
SERVED = (
    "gpt2", "gpt_oss", "olmo2", "qwen3_moe",  # text alone
    "gemma3", "llava", "qwen2_5_vl",  # the text part of what sees images
    "deepseek_v3", "minicpm3", "mimo_v2_flash-full",  # keys wider than values
    "llama-dynamic", "phi3-longrope",  # RoPE that is exact as long as it is served
)  # fmt: skip


@pytest.mark.parametrize("name", SERVED)
def test_it_loads_and_its_tokens_are_equal(name, tmp_path):
    """Every answer is transformers' own, token by token."""
    outcome = try_case(CASES[name], tmp_path)
    assert outcome.verdict == EQUAL, outcome.said
    assert outcome.private == "", "engines of one host share its weights"


def test_a_refusal_is_an_outcome_with_its_sentence(tmp_path):
    """What cannot be served is told apart from what fails."""
    outcome = try_case(CASES["mamba"], tmp_path)
    assert (outcome.verdict, "recurrent state" in outcome.said) == (REFUSED, True), outcome


def test_longrope_beyond_its_original_length_fails_the_self_test(tmp_path):
    """Served for more than that, a sequence depends on its neighbours; nothing but the self-test looks at that."""
    make_checkpoint(CASES["phi3-longrope"], tmp_path)
    model, layout = load_model(tmp_path), layout_of(tmp_path, "float32", 16)

    with pytest.raises(ModelRefused, match="beside a sequence at position 511: they depend on the lengths"):
        self_test(model, layout)
    model.max_model_len = CASES["phi3-longrope"].max_model_len
    self_test(model, layout)


def test_the_towers_of_what_sees_images_are_given_up(tmp_path):
    """Of a model that sees images the decoder, embeddings and head stay in memory."""
    make_checkpoint(CASES["llava"], tmp_path)
    kept = {name for name, _ in load_model(tmp_path).module.named_modules()}
    assert "lm_head" in kept
    assert not [name for name in kept if "vision" in name or "projector" in name], sorted(kept)
