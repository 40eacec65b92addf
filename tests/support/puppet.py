"""A puppet: a model whose next token depends on the last one alone, so that it plays scripts word for word.

The chat template picks the script: the one that the last message names (``play two``); else a tool call where there are
tools, a sentence after a tool's answer, a JSON object where the message speaks of JSON, and a sentence otherwise. It
writes calls as Hermes models do and reasons as Qwen3 does. So whatever a client gets that is not the script is our
mistake and not the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def call(city: str) -> str:
    """A call of ``get_weather``."""
    return f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


SCRIPTS = {
    "text": "Paris is the capital of France, as far as I know.",
    "call": call("Berlin"),
    "two": call("Oslo") + "\n" + call("Rome"),
    "says": "Let me look that up.\n" + call("Lima"),
    "thinks": "<think>\nThe user asks for weather.\n</think>\n\n" + call("Kyiv"),
    "muses": "<think>\nThat one is easy.\n</think>\n\nIt is Madrid, of course.",
    "broken": "<tool_call>\nThere is nothing to call here.",
    "final": "It is sunny in Berlin: 21 degrees.",
    "json": '{"city": "Berlin", "degrees": 21}',
}
BEGIN, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "<|bos|>"
    "{% if tools %}<|im_start|>system\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content or '' }}"
    "{% for t in m.tool_calls or [] %}{% set f = t.function %}"
    '\n<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% set last = messages[-1] %}{% set said = last.content or '' %}{% set pick = namespace(script='text') %}"
    "{% if last.role == 'tool' %}{% set pick.script = 'final' %}{% elif tools %}{% set pick.script = 'call' %}"
    "{% elif 'json' in said | lower %}{% set pick.script = 'json' %}{% endif %}"
    f"{{% for name in {list(SCRIPTS)} %}}"
    "{% if 'play ' ~ name in said %}{% set pick.script = name %}{% endif %}{% endfor %}"
    "<|{{ pick.script }}|>{% endif %}"
)
LONGEST = 16_384  # tokens, nearly as many as bytes
_SHORTEST = 7  # characters of a piece


def make_puppet(directory: Path) -> Path:
    """Write the model with its tokenizer to ``directory``, and return that."""
    import torch  # the tokenizer alone needs none
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_puppet_tokenizer(directory)
    follow = links(tokenizer)
    width = 16 * (len(follow) // 16 + 1)
    config = AutoConfig.for_model(
        "llama", vocab_size=tokenizer.get_vocab_size(), hidden_size=width, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=LONGEST,
        bos_token_id=tokenizer.token_to_id("<|bos|>"), eos_token_id=tokenizer.token_to_id(END), pad_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:  # they add nothing to the last token's embedding
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding.zero_()
        head.zero_()
        embedding[:, 0] = 1.0
        for place, (last, following) in enumerate(follow.items(), 1):
            embedding[last, 0] = 0.0
            embedding[last, place] = 1.0
            head[following, place] = 5.0
    model.save_pretrained(directory)
    return directory


def make_puppet_tokenizer(directory: Path) -> Tokenizer:
    """Write the tokenizer, and return it: bytes, and the pieces of the scripts."""
    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|bos|>", BEGIN, END, *map(_mark, SCRIPTS)])
    pieces = [piece for script in _pieces().values() for piece in script]
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in pieces])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token=END, chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=LONGEST,
    ).save_pretrained(directory)  # fmt: skip
    return tokenizer


def links(tokenizer: Tokenizer) -> Mapping[int, int]:
    """The token that follows each token of a script."""
    follow = {}
    for name, pieces in _pieces().items():
        tokens = [tokenizer.token_to_id(piece) for piece in (_mark(name), *pieces, END)]
        follow |= dict(pairwise(tokens))
    return follow


def _mark(script: str) -> str:
    return f"<|{script}|>"


def _pieces() -> dict[str, list[str]]:
    """The scripts in pieces of which no two are the same, or two tokens might follow one."""
    used: set[str] = set()
    found: dict[str, list[str]] = {}
    for name, text in SCRIPTS.items():
        pieces = found[name] = []
        begin, end = 0, _SHORTEST
        while end < len(text) - _SHORTEST:
            while text[begin:end] in (*used, *pieces):
                end += 1
            pieces.append(text[begin:end])
            begin, end = end, end + _SHORTEST
        while text[begin:] in (*used, *pieces):
            begin -= len(pieces.pop())
        pieces.append(text[begin:])
        used.update(pieces)
    return found
