"""A player: a model whose next token follows from the script that is played and from the last token.

The puppet of other tests (``tests.support.puppet``) knows the last token alone. That is not enough where a grammar
writes along: what it forces comes in tokens of its choice, the same in every script, and behind them only the script
says which tool, which city. So scripts share the tokens of calls and objects here, and the layer does what layers are
for: attention brings the script's name from the prompt's last token, and a neuron for each pair of script and token
writes the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BEGIN, END = "<|im_start|>", "<|im_end|>"
LONGEST = 16_384  # tokens, nearly as many as bytes
HEAD, HEADS, KV_HEADS = 32, 4, 2
Scripts = Mapping[str, Sequence[str]]  # pieces by name; no piece is twice in a script, lest two may follow it
_STEADY = HEAD // 2 - 1  # of a head's numbers the one that hardly turns with the distance


def mark(script: str) -> str:
    """The special token that starts a script; a template ends a prompt with one."""
    return f"<|{script}|>"


def make_player(directory: Path, scripts: Scripts, template: str) -> Path:
    """Write the model with its tokenizer to ``directory``, and return that."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = _make_tokenizer(directory, scripts, template)
    after = _successors(tokenizer, scripts)
    place = {token: number for number, token in enumerate(sorted({t for pair in after for t in pair[1:]}))}
    one, marked, last = 0, 1, 2
    named = last + len(place)  # by the embedding of a mark
    played = named + len(scripts)  # by attention, in every token behind it
    following = played + len(scripts)
    width = 32 * math.ceil((following + len(place)) / 32)
    config = AutoConfig.for_model(
        "llama", vocab_size=tokenizer.get_vocab_size(), hidden_size=width, intermediate_size=len(after),
        num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD,
        max_position_embeddings=LONGEST, bos_token_id=tokenizer.token_to_id("<|bos|>"),
        eos_token_id=tokenizer.token_to_id(END), pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    layer = model.model.layers[0]
    with torch.no_grad():
        for weight in (layer.self_attn, layer.mlp, model.model.embed_tokens, model.lm_head):
            for parameter in weight.parameters():
                parameter.zero_()
        embedding = model.model.embed_tokens.weight
        embedding[:, one] = 1
        for token, number in place.items():
            embedding[token, last + number] = 1
        for number, script in enumerate(scripts):
            embedding[tokenizer.token_to_id(mark(script)), [marked, named + number]] = 1
        in_a_mark = math.sqrt(width / 4)  # four ones, behind the norm
        layer.self_attn.q_proj.weight[_STEADY::HEAD, one] = 2
        layer.self_attn.k_proj.weight[_STEADY::HEAD, marked] = 1
        for number in range(len(scripts)):
            layer.self_attn.v_proj.weight[number, named + number] = 1
            layer.self_attn.o_proj.weight[played + number, number] = 1 / in_a_mark
        gate, up, down = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
        up[:, one] = 1
        for neuron, (script_number, token, successor) in enumerate(after):
            gate[neuron, [played + script_number, last + place[token]]] = 4
            gate[neuron, one] = -6  # one of the two is not enough
            down[following + place[successor], neuron] = 0.05
        for token, number in place.items():
            model.lm_head.weight[token, following + number] = 5
    model.save_pretrained(directory)
    return directory


def _make_tokenizer(directory: Path, scripts: Scripts, template: str) -> Tokenizer:
    """Write the tokenizer, and return it: bytes, and the pieces of the scripts, of which a text gets the fewest."""
    directory.mkdir(parents=True, exist_ok=True)
    pieces = [piece for script in scripts.values() for piece in script]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = ["".join(part for part, _ in byte_level.pre_tokenize_str(piece)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([(text, -10.0) for text in dict.fromkeys([*alphabet, *spelled])], unk_id=0))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|bos|>", BEGIN, END, *map(mark, scripts)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token=END, chat_template=template,
        clean_up_tokenization_spaces=False, model_max_length=LONGEST,
    ).save_pretrained(directory)  # fmt: skip
    return tokenizer


def _successors(tokenizer: Tokenizer, scripts: Scripts) -> list[tuple[int, int, int]]:
    """Script, token, and the token that follows it there."""
    assert len(scripts) <= HEAD
    found = []
    for number, (name, pieces) in enumerate(scripts.items()):
        assert len(set(pieces)) == len(pieces), name
        told = [token for piece in pieces for token in tokenizer.encode(piece).ids]
        assert len(told) == len(pieces), name
        tokens = [tokenizer.token_to_id(mark(name)), *told, tokenizer.token_to_id(END)]
        found += [(number, *pair) for pair in pairwise(tokens)]
    return found
