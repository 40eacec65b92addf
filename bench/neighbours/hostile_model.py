"""The model of ``quire bench hostile``: a tokenizer of real size over a tiny Llama whose answers are known beforehand.

What a hostile text costs is mostly its encoding, so the tokenizer is a byte-level BPE of 32,000 tokens as released
models have it, trained on the sources of Python's standard library: real text that is on every machine. The model
answers text with words without end, and a prompt that ends in ``FRAGMENT`` with that token without end: half a
character, which no decoder can show before it knows what follows.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models.sizes import MAX_LEN, MODELS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCAB = 32_000
FRAGMENT = "\u0122"  # how byte-level BPE spells the byte 0x80, which begins no character
WORDS = " the answer goes on and on"
CORPUS_CHARS = 8_000_000
HIDDEN = 64
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def hostile_model_directory() -> Path:
    """The directory of the model, made if it is not there (half a minute)."""
    directory = MODELS / "hostile"
    if not (directory / "done").exists():
        _make(directory)
        (directory / "done").touch()
    return directory


def fragment(directory: Path) -> int:
    """The token id of half a character."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(directory / "tokenizer.json")).token_to_id(FRAGMENT))


def _corpus() -> Iterator[str]:
    left = CORPUS_CHARS
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if "site-packages" in file.parts:
            continue
        text = file.read_text(errors="replace")[:left]
        left -= len(text)
        yield text
        if not left:
            return


def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _make(directory: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", chat_template=TEMPLATE, model_max_length=MAX_LEN
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=HIDDEN, intermediate_size=HIDDEN, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=MAX_LEN,
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    words = list(islice(dict.fromkeys(tokenizer.encode(WORDS).ids), 8))
    _know_answers(model, words, tokenizer.token_to_id(FRAGMENT))
    model.save_pretrained(directory)


def _know_answers(model: Any, words: list[int], half: int) -> None:
    """Layers hardly count; each of ``words`` calls for the next, ``half`` for itself, all other text for a word."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 1e-3 if "o_proj" in name or "down_proj" in name else 0.05)
        embedding = torch.nn.functional.normalize(torch.randn(model.config.vocab_size, HIDDEN), dim=1)
        apart = torch.nn.functional.normalize(torch.randn(HIDDEN), dim=0)
        embedding += 2 * apart
        embedding[half] -= 4 * apart
        model.get_input_embeddings().weight.copy_(embedding)
        head = model.get_output_embeddings().weight.zero_()
        for token, following in [*pairwise([*words, words[0]]), (half, half)]:
            head[following] += 4 * embedding[token]
