"""Places in a grammar, and the masks of many of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.grammar import Grammar, GrammarState
from quire_engine.grammar.mask_rows import MaskRows, words_of
from tests.support.grammars import EOS, Letters, random_grammar

VOCAB = 256
LETTERS = Letters(VOCAB)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(lambda: LETTERS)
    yield made
    made.close()


def grammar(compiler: GrammarCompiler, text: str) -> Grammar:
    return compiler.compile("tenant", text).result(30)


def allowed(*states: GrammarState, banned: tuple[int, ...] = ()) -> list[set[int]]:
    """What each may take next, all masks made in one call."""
    words = np.zeros((len(states) + 1, words_of(VOCAB)), np.int32)
    MaskRows(VOCAB).fill([(state, banned) for state in states], words)
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    assert not bits[:, VOCAB:].any()
    return [set(np.flatnonzero(row).tolist()) for row in bits[: len(states)]]


def ids(text: str) -> list[int]:
    return LETTERS.encode(text)


def test_a_place_follows_from_tokens_alone(compiler: GrammarCompiler) -> None:
    """A place reached token by token, in one go, by cloning and from the beginning again allows the same."""
    for seed in range(20):
        chance, made = random.Random(seed), grammar(compiler, random_grammar(seed).lark)
        walked, tokens = made.after([]), list[int]()
        while not walked.ended and len(tokens) < 200:
            (now,) = allowed(walked)
            (again,), (cloned,) = allowed(made.after(tokens)), allowed(walked.clone())
            assert now == again == cloned
            if now == {EOS}:
                break
            tokens.append(chance.choice(sorted(now - {EOS})))
            walked.accept(tokens[-1:])
        assert walked.error == ""
        assert walked.complete
        assert random_grammar(seed).pattern.fullmatch(LETTERS.text(tokens))


def test_what_is_likely_is_foreseen_and_forbids_nothing(compiler: GrammarCompiler) -> None:
    """As long as a place keeps to it, its clones too; then what is certain is foreseen, as where there is no likely
    grammar or none that can be used."""
    any_space, no_space = 'start: /x?/ "ab" /x?/ "cdcd" /x?/', 'start: "ab" "cdcd"'
    made = compiler.compile("tenant", any_space, no_space).result(30)
    state = made.after([])
    assert allowed(state) == allowed(grammar(compiler, any_space).after([]))
    assert LETTERS.text(list(state.foreseen(9))) == "abcdcd"[: len(state.foreseen(9))]
    assert len(state.foreseen(9)) > 2
    clone, plain = state.clone(), grammar(compiler, any_space).after([])
    for one in (state, plain):
        one.accept(ids("x"))
    assert state.foreseen(9) == plain.foreseen(9)
    clone.accept(ids("ab"))
    assert LETTERS.text(list(clone.foreseen(9))).startswith("c")
    clone.accept(ids("x"))
    assert (clone.error, allowed(clone)) == ("", allowed(grammar(compiler, any_space).after(ids("abx"))))
    for useless in ('start: "', "start: nothing", 'start: "zz"'):
        poor = compiler.compile("tenant", any_space, useless).result(30).after([])
        poor.accept(ids("xab"))
        assert (poor.error, poor.foreseen(9)) == ("", ())


def test_a_clone_goes_its_own_way(compiler: GrammarCompiler) -> None:
    """What one of two places accepts does not move the other."""
    one = grammar(compiler, 'start: "ab" | "cd"').after([])
    other = one.clone()
    one.accept(ids("a"))
    other.accept(ids("c"))
    assert allowed(one, other) == [{*ids("b")}, {*ids("d")}]


def test_the_end(compiler: GrammarCompiler) -> None:
    """An end token may come where the grammar may end; where nothing else may, the place has ended without one."""
    state = grammar(compiler, 'start: "a" "b"?').after([])
    assert (state.complete, state.ended) == (False, False)
    state.accept(ids("a"))
    assert (state.complete, state.ended) == (True, False)
    assert allowed(state) == [{EOS, *ids("b")}]
    early = state.clone()
    early.accept([EOS])
    state.accept(ids("b"))
    assert [(s.ended, s.error) for s in (early, state)] == [(True, "")] * 2


def test_a_token_that_is_not_allowed_is_an_error(compiler: GrammarCompiler) -> None:
    """The place says why, allows nothing but the end, and beside it others go on."""
    wrong, right = grammar(compiler, 'start: "ab"').after(ids("b")), grammar(compiler, 'start: "ab"').after(ids("a"))
    assert "grammar" in wrong.error
    assert "\n" not in wrong.error
    assert allowed(wrong, right) == [{EOS}, {*ids("b")}]


def test_banned_tokens_give_way_to_the_grammar(compiler: GrammarCompiler) -> None:
    """A token may be kept out of a mask, unless nothing else is in it."""
    state = grammar(compiler, 'start: "a" "b"?').after(ids("a"))
    assert allowed(state, banned=(EOS, 10_000)) == [{*ids("b")}]
    assert allowed(state, banned=(EOS, *ids("b"))) == [{EOS, *ids("b")}]


def test_a_model_without_an_end_token() -> None:
    """Its grammars end where nothing else may follow; an end that it cannot draw is in no mask's reach."""
    endless = GrammarCompiler(lambda: Letters(VOCAB, ends=()))
    state = grammar(endless, 'start: "ab"').after(ids("a"))
    assert allowed(state) == [{*ids("b")}]
    state.accept(ids("b"))
    assert state.ended
    endless.close()


def test_a_vocabulary_that_cannot_spell_the_rest(compiler: GrammarCompiler) -> None:
    """A place from which no token leads on has an error that says so; a row is never without any token."""
    for text in ('start: "a\\u00ff"', 'start: "a" ("\\u00ff" | "\\u4e2d")'):
        state = grammar(compiler, text).after(ids("a"))
        assert len(allowed(state)[0]) == 1
        assert "no token" in state.error


@pytest.mark.parametrize("size", [160, 255, 256, 257, 288])
def test_any_size_of_vocabulary(size: int) -> None:
    """Rows have one width for a vocabulary, whether it fills the last word or not."""
    sized = GrammarCompiler(lambda: Letters(size))
    words = np.zeros((1, words_of(size)), np.int32)
    MaskRows(size).fill([(grammar(sized, 'start: "g"').after([]), ())], words)
    assert np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist() == ids("g")
    sized.close()
