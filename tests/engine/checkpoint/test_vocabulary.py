"""A model's vocabulary: the bytes of its tokens and which are no text, from its files, as grammars take them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
from tokenizers import AddedToken

from quire_engine.checkpoint.vocabulary import Vocabulary, read_vocabulary
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.mask_rows import MaskRows, words_of
from tests.support.gateway import write_tokenizer
from tests.support.grammars import random_grammar

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


def test_a_forced_token_is_all_that_its_mask_allows(tmp_path: Path) -> None:
    """Along random answers of random grammars, with a tokenizer that has several ways to spell most texts."""
    found, forced = written(tmp_path), 0
    compiler, words = GrammarCompiler(lambda: found), np.zeros((1, words_of(384)), np.int32)
    for seed in range(12):
        chance = Random(seed)
        state = compiler.compile("t", f'start: ("the quick fox " | "dozen ") {_rest(seed)}').result(30).after([])
        while not state.ended:
            MaskRows(384).fill([(state, ())], words)
            allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()
            token = state.forced()
            if token is not None:
                forced += 1
                assert allowed == [token]
            state.accept([chance.choice(allowed)])
            assert state.error == ""
    assert forced > 20
    compiler.close()


def _rest(seed: int) -> str:
    return random_grammar(seed).lark.removeprefix("start: ")
