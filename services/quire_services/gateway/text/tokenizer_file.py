"""The tokenizer as the model's own ``tokenizer.json`` has it, where transformers makes another of it.

For some classes of tokenizer transformers builds the rules anew from the vocabulary, and a text that begins with
spaces, say, gets other tokens than the model was trained on. So both encode sample texts, and where they differ the
file is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from .tokenizer_check import TOKENIZER_FILE

_SAMPLES = (
    *("", " ", "hello", " hello", "  hello", "    return x", "a  b   c", "hello ", "Hello, world! It's 12345.67%"),
    *(
        "\n",
        "\n\nhi",
        "hi\n  there\n",
        "\ta\t\tb",
        "\r\n",
        "e\u0301 é",
        "中文 テスト 한국어",
        "🙂 👩‍👩‍👧",
        "مرحبا",
        "\u00a0x",
    ),
    *("\u0378\U000e1234", "\x00\x01", "▁a", "ﬁ ①", "camelCase snake_case", "I'LL we'll", "</x><y>"),
)


def own_tokenizer(directory: Path, given: Any) -> Any | None:
    """The tokenizer of the directory's file, if it and transformers' ``given`` make different tokens of a text.

    None if they agree, if there is no such file, or if only ``given`` knows some of the tokens (those that a
    configuration adds get the same ids, or there is no telling which of the two is meant).
    """
    file = directory / TOKENIZER_FILE
    if not file.is_file():
        return None
    own = Tokenizer.from_file(str(file))
    own.no_truncation()
    own.no_padding()
    theirs = given.get_added_tokens_decoder()
    known = own.get_added_tokens_decoder()
    own.add_tokens([token for i, token in sorted(theirs.items()) if i not in known])
    if any(own.token_to_id(token.content) != i for i, token in theirs.items()):
        return None
    words = [token.content for _, token in sorted(theirs.items())[:32]]
    samples = [*_SAMPLES, *(f"{word} {word} a{word}b\n{word}\n {word}  c" for word in words)]
    if all(_ids(own, text) == _ids(given, text) for text in samples):
        return None
    own.post_processor = given.post_processor  # which tokens are put around a text is the configuration's to say
    return own


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
