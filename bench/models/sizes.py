"""The models of the benches: random fp32 Llamas of several sizes, written once under ``build/``, and SmolLM2."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from bench.report.figures import say

from .smollm2 import SMOLLM2

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "build" / "bench-models"
MAX_LEN = 8192
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "vocab": 512},
    "27m": {"layers": 8, "hidden": 512, "heads": 8, "kv_heads": 4, "vocab": 8000},
    "125m": {"layers": 12, "hidden": 1024, "heads": 16, "kv_heads": 4, "vocab": 8000},
}
REAL = "smollm2"
NUMBER_BYTES = {"float32": 4, "bfloat16": 2}  # bytes of a number
_REAL_WORDS = 8000


def model_directory(size: str) -> Path:
    """The directory of a model, made if it is not there (seconds; torch is imported only then). Raises NoModel."""
    if size == REAL:
        return SMOLLM2.get(say)
    directory = MODELS / f"llama-{size}"
    if not (directory / "done").exists():
        from .tiny import make_model

        make_model(directory, "llama", max_len=MAX_LEN, **SIZES[size])
        (directory / "done").touch()
    return directory


@cache
def words(size: str) -> tuple[str, ...]:
    """The words that a prompt for this model can hold, one token each where a space is before them."""
    if size == REAL:
        return _one_token_words(model_directory(size))
    from .tiny import FIRST_WORD

    return tuple(f"w{number}" for number in range(SIZES[size]["vocab"] - FIRST_WORD))


def _one_token_words(directory: Path) -> tuple[str, ...]:
    """The commonest words of the tokenizer: plain letters that are one token behind a space."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    spelled = (tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size()))
    found = [
        text[1:] for text in spelled if len(text) > 3 and text[0] == " " and text[1:].isascii() and text[1:].isalpha()
    ]
    encoded = tokenizer.encode_batch([f" {word}" for word in found], add_special_tokens=False)
    return tuple(word for word, one in zip(found, encoded, strict=True) if len(one.ids) == 1)[:_REAL_WORDS]


def kv_bytes_per_token(size: str, dtype: str = "float32") -> int:
    """Bytes of K and V of one token."""
    shape = json.loads((model_directory(size) / "config.json").read_bytes())
    return int(2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"] * NUMBER_BYTES[dtype])
