"""Tiny random models and a tokenizer of one word per token, for tests, benches and the demo.

Owns the directories they load: config, safetensors weights, tokenizer and chat template, all made from a seed.

Real checkpoints are large and their greedy answers soon repeat; a repeated token proves nothing about a cache.
So weights are drawn wide: attention and MLP outputs weigh as much as the token embedding, the next token depends
on the whole prompt, and greedy decoding wanders through the vocabulary. Special tokens get small output rows, so
that `<eos>` ends an answer only rarely.

Words are `w0`, `w1`, ... and each is one token: a prompt of N words is N tokens (plus `<bos>` where the chat
template puts one), and a test can read an answer as token ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<bos>", "<eos>", "<system>", "<user>", "<assistant>", "<end>"]
FIRST_WORD = len(SPECIAL)  # token id of w0
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3")
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_model(
    directory: Path,
    family: str = "llama",
    *,
    layers: int = 2,
    hidden: int = 128,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    vocab: int = 512,
    window: int | None = None,
    max_len: int = 4096,
    seed: int = 0,
    std: float = 1.0,
) -> Path:
    """Write a random model with tokenizer to ``directory`` and return it.

    Args:
        directory: created if missing.
        family: one of ``FAMILIES``, as transformers names them.
        head_dim: defaults to ``hidden // heads``; phi3 derives it and accepts no other.
        vocab: tokens in all; ``vocab - FIRST_WORD`` of them are words.
        window: sliding window, for mistral, gemma2 (every other layer), phi3 and qwen2/qwen3 (upper half).
        std: spread of the weights, 1.0 keeps each layer's output about as large as its input.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "vocab": vocab}
    config = AutoConfig.for_model(family, **_options(family, sizes, head_dim, window, max_len))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _draw_weights(model, seed, std)
    model.save_pretrained(directory)
    make_tokenizer(vocab, max_len).save_pretrained(directory)
    return directory


def make_tokenizer(vocab: int, max_len: int = 4096) -> PreTrainedTokenizerFast:
    """A tokenizer of ``vocab`` tokens, one per word; an unknown word becomes ``<unk>``."""
    names = SPECIAL + [f"w{i}" for i in range(vocab - FIRST_WORD)]
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_len,
    )


def _options(
    family: str, sizes: dict[str, int], head_dim: int | None, window: int | None, max_len: int
) -> dict[str, Any]:
    """Configuration fields of ``family``: the common ones, then what only that family reads."""
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is none of {', '.join(FAMILIES)}")
    derived = sizes["hidden"] // sizes["heads"]
    if family in ("phi3", "qwen2") and head_dim not in (None, derived):
        raise ValueError(f"{family} derives head_dim: hidden / heads = {derived}, not {head_dim}")
    options: dict[str, Any] = {
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["hidden"],
        "intermediate_size": 2 * sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "max_position_embeddings": max_len,
        "bos_token_id": SPECIAL.index("<bos>"),
        "eos_token_id": SPECIAL.index("<eos>"),
        "pad_token_id": None,
    }
    if family not in ("phi3", "qwen2"):
        options["head_dim"] = head_dim or derived
    if family == "gemma2":
        options |= {"query_pre_attn_scalar": options["head_dim"], "sliding_window": window or max_len}
    elif family == "phi3":
        options |= {"original_max_position_embeddings": max_len, "sliding_window": window}
    elif family == "mistral":
        options["sliding_window"] = window
    elif family in ("qwen2", "qwen3") and window:
        options |= {"use_sliding_window": True, "sliding_window": window, "max_window_layers": sizes["layers"] // 2}
    return options


@torch.no_grad()
def _draw_weights(model: Any, seed: int, std: float) -> None:
    """Matrices with unit gain or more, so that context outweighs the last token; special tokens hardly ever win."""
    generator = torch.Generator().manual_seed(seed)
    tied = model.config.tie_word_embeddings
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim == 2 and "embed" in name:
            # Tied output rows pull towards repeating the input token: keep them short, larger norms make up.
            weight.normal_(0.0, 0.02 if tied else 0.5 * std, generator=generator)
        elif weight.ndim == 2:
            # Sharp attention: a score spread of about 4 makes single tokens of a long prompt matter.
            gain = 2.0 if any(part in name for part in ("q_proj", "k_proj", "qkv", "o_proj")) else 1.0
            weight.normal_(0.0, gain * std * weight.shape[1] ** -0.5, generator=generator)
        elif name.endswith("bias"):
            weight.normal_(0.0, 0.1 * std, generator=generator)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.fill_(2.0)
        elif tied and "post_" in name:
            weight.fill_(3.0)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if tied:
        model.get_decoder().norm.weight.fill_(4.0)
    else:
        # Lean away from the input token: a token that follows itself is a fixed point nothing leads out of.
        head -= embedding * (2.0 * head.norm() / embedding.norm())
    head[:FIRST_WORD] *= 0.2
