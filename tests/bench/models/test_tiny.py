"""The tiny models and their tokenizer do what tests, benches and the demo rely on."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.families import FAMILIES, family_model


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_diverse(family, tmp_path):
    """Greedy answers wander through the vocabulary and hardly ever end early."""
    module = AutoModelForCausalLM.from_pretrained(family_model(tmp_path, family), attn_implementation="eager")
    ids = torch.randint(FIRST_WORD, 512, (4, 30), generator=torch.Generator().manual_seed(2))
    out = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, pad_token_id=0)
    answers = out[:, 30:].tolist()

    assert min(len(set(answer)) for answer in answers) >= 20
    assert len({tuple(answer) for answer in answers}) == 4


def test_one_word_is_one_token(tmp_path):
    """Words round-trip, an unknown word is <unk>, and the chat template has one token per role marker."""
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path))
    ids = tokenizer("w17 w3 what w9")["input_ids"]
    messages = [{"role": "system", "content": "w1 w2"}, {"role": "user", "content": "w3"}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    assert ids == [FIRST_WORD + 17, FIRST_WORD + 3, tokenizer.unk_token_id, FIRST_WORD + 9]
    assert tokenizer.decode([FIRST_WORD + 5, FIRST_WORD]) == "w5 w0"
    assert tokenizer.convert_ids_to_tokens(chat) == (
        ["<bos>", "<system>", "w1", "w2", "<end>", "<user>", "w3", "<end>", "<assistant>"]
    )


def test_equal_seeds_give_equal_models(tmp_path):
    """A model is a function of its arguments."""
    first, second = (make_model(tmp_path / name, seed=3) / "model.safetensors" for name in "ab")

    assert first.read_bytes() == second.read_bytes()
