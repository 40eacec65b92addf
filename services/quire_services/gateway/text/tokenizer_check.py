"""The tokenizer's files in a model directory, looked at before a library reads them.

Owns the question whether there is a tokenizer that can be served: the tokenizers library's own form, or one that
transformers makes it from with what is installed. ``quire prepare`` asks it, so that it is answered before weights are
loaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from quire_engine.checkpoint.model_files import check_file, present
from quire_engine.checkpoint.refusal import ModelRefused

TOKENIZER_FILE = "tokenizer.json"
# Files that together are a tokenizer too: transformers makes a ``tokenizer.json`` from them.
VOCABULARY_FILES = ("vocab.json", "vocab.txt", "merges.txt")
COMPANION_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    *VOCABULARY_FILES,
)


def check_tokenizer(directory: Path) -> None:
    """Raise ModelRefused unless the directory's tokenizer can be read and served."""
    for name in (TOKENIZER_FILE, *COMPANION_FILES):
        if present(directory / name):
            check_file(directory / name)
    if present(directory / TOKENIZER_FILE) or any(present(directory / name) for name in VOCABULARY_FILES):
        return
    if present(directory / "tokenizer.model"):
        check_file(directory / "tokenizer.model")
        if find_spec("sentencepiece") is None:
            raise ModelRefused(
                f"{directory} has its tokenizer as tokenizer.model (SentencePiece) only: install sentencepiece, or let"
                f" AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) write {TOKENIZER_FILE} where it is installed"
            )
        return
    other = next((name for name in ("tekken.json", "tiktoken.model", "qwen.tiktoken") if present(directory / name)), "")
    instead = f" (and {other} is a form of its maker's own)" if other else ""
    raise ModelRefused(
        f"{directory} holds no tokenizer{instead}: download {TOKENIZER_FILE} and tokenizer_config.json too"
    )
