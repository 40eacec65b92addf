"""What the tokenizer makes of a forced text spells that text, whatever the tokenizer adds of its own."""

from __future__ import annotations

import pytest

from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.tokens import VocabularyRefused, _Vocabulary
from tests.support.grammars import Letters


class Spaced(Letters):
    """Puts a space before every text, as many do."""

    def encode(self, text: str) -> list[int]:
        return super().encode(" " + text)


class Blind(Letters):
    """Answers with an unknown token whatever it is asked."""

    def encode(self, _text: str) -> list[int]:
        return [0]


@pytest.mark.parametrize("kind", [Letters, Spaced, Blind])
def test_forced_texts_are_spelled(kind: type[Letters]) -> None:
    """An answer of which every byte is forced is that text."""
    tokens, text = kind(256), 'abc: "xyz", 123 true'
    given = _Vocabulary(tokens)(text.encode())
    assert b"".join(tokens.spelled[token] for token in given) == text.encode()
    compiler = GrammarCompiler(lambda: tokens)
    state = compiler.compile("t", f"start: {text!r}".replace('"', '\\"').replace("'", '"')).result(30).after([])
    forced = list[int]()
    while found := state.foreseen(5):
        forced += found
        state.accept(found)
    assert text.startswith(tokens.text(forced))
    assert len(tokens.text(forced)) > len(text) // 2
    compiler.close()


def test_what_no_token_spells() -> None:
    """As far as there are tokens; a vocabulary without single letters is refused as such."""
    tokens = Letters(256)
    assert tokens.text(_Vocabulary(tokens)(b"ab\xff\xfe")) == "ab"
    tokens.spelled[tokens.spelled.index(b"k")] = b""
    with pytest.raises(VocabularyRefused, match="'k'"):
        _Vocabulary(tokens)
