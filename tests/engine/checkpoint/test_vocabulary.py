"""A model's vocabulary: the bytes of its tokens and which are no text, from its files, as grammars take them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from tokenizers import AddedToken

from quire_engine.checkpoint.vocabulary import Vocabulary, read_vocabulary
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.mask_rows import MaskRows, words_of
from tests.support.gateway import write_tokenizer

SPECIAL, PLAIN, ANSWER = "[TOOL_CALLS]", "<tool_call>", 'Sure – ☀.<tool_call>{"a": "é"}'


def written(folder: Path) -> Vocabulary:
    """Of a byte-level tokenizer with an added token of each kind, for a model with places to spare."""
    tokenizer = write_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(PLAIN, special=False, normalized=False)])
    tokenizer.add_special_tokens([AddedToken(SPECIAL, special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return read_vocabulary(folder, 384, {1})


def test_bytes_and_kinds_of_tokens(tmp_path: Path) -> None:
    """Tokens spell the text that they were made from; special are those that the tokenizer calls so, and no others."""
    found = written(tmp_path)
    assert b"".join(found.spelled[token] for token in found.encode(ANSWER)) == ANSWER.encode()
    assert len(found.spelled) == 384
    assert found.spelled[-1] == b""
    assert {SPECIAL.encode(), b"<eos>"} < {found.spelled[token] for token in found.special}
    assert PLAIN.encode() not in {found.spelled[token] for token in found.special}
    assert [found.spelled[token] for token in found.ends] == [b"<eos>"]


def test_tokens_without_logits_are_left_out(tmp_path: Path) -> None:
    """A tokenizer may have more tokens than the model has logits for."""
    found = Vocabulary.of(written(tmp_path).tokenizer, 100, {1, 300})
    assert len(found.spelled) == 100
    assert max(found.special) < 100
    assert found.ends == [1]


def test_grammars_over_it(tmp_path: Path) -> None:
    """Text is text, the plain token included; a special token is named, and its letters are not it."""
    found = written(tmp_path)
    compiler = GrammarCompiler(lambda: found)
    text = compiler.compile("t", r'start: /[^<]*/ "<tool_call>" %json {}').result(30).after(found.encode(ANSWER))
    assert text.error == ""
    assert text.complete
    number = found.spelled.index(SPECIAL.encode())
    named = compiler.compile("t", f'start: /[a-z]*/ <[{number}]> "x"').result(30)
    assert named.after(found.encode(f"ab{SPECIAL}x")).ended
    assert named.after([token for letter in SPECIAL for token in found.encode(letter)]).error
    compiler.close()


@pytest.mark.parametrize(
    "spelled",
    [
        "start: {}",
        '%llguidance {{"no_forcing": false}}\nstart: {}',
        'start: %lark {{\n%llguidance {{"no_forcing": false}}\nstart: {}\n}}',
        'start: %json {{"const": {}}}',
        ' {{"grammars": [{{"json_schema": {{"const": {}}}}}]}}',
    ],
)
def test_a_text_that_must_come_may_come_in_any_tokens(tmp_path: Path, spelled: str) -> None:
    """Whatever form a grammar has and says, masks along random answers allow each token that the text goes on with."""
    found, text = written(tmp_path), "the quick fox jumps over the lazy dog"
    compiler, words, ways = GrammarCompiler(lambda: found), np.zeros((1, words_of(384)), np.int32), set()
    grammar = compiler.compile("t", spelled.format(json.dumps(text))).result(30)
    whole = (json.dumps(text) if "const" in spelled else text).encode()
    for seed in range(12):
        chance, state, at, way = Random(seed), grammar.after([]), 0, list[int]()
        while at < len(whole):
            MaskRows(384).fill([(state, ())], words)
            allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()
            assert allowed == [t for t, own in enumerate(found.spelled) if own and whole.startswith(own, at)]
            way.append(chance.choice(allowed))
            at += len(found.spelled[way[-1]])
            state.accept(way[-1:])
        assert state.ended
        ways.add(tuple(way))
    assert len(ways) > 6
    compiler.close()
