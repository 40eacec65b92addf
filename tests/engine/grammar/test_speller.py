"""The tokens in which a text that must come is foreseen."""

from __future__ import annotations

from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.speller import LONGEST_TEXT
from tests.support.grammars import Letters

SPECIAL = 1


class Added(Letters):
    """With a token that reaches from the end of one text into what follows."""

    def __init__(self) -> None:
        super().__init__(256)
        self.spelled[-1] = b': "Rom'


def foreseen(text: str, most: int = 64, before: str = "") -> list[str]:
    tokens = Added()
    compiler = GrammarCompiler(lambda: tokens)
    found = compiler.compile("t", text).result(30).after(tokens.encode(before)).foreseen(most)
    compiler.close()
    return [tokens.spelled[token].decode() for token in found]


def test_a_text_is_foreseen_as_the_tokenizer_writes_it() -> None:
    """Up to where the model may choose, as far as it is wanted, and not where nothing is certain."""
    assert foreseen('start: "0xyz0" /[a-z]/') == list("0xyz0")
    assert foreseen('start: "0xyz0" /[a-z]/', 3) == list("0xy")
    assert foreseen('start: /[a-z]{2}/ "xyz" /[0-9]/') == []
    assert foreseen('start: /[a-z]{2}/ "xyz" /[0-9]/', before="kk") == list("xyz")


def test_a_token_may_reach_beyond_the_text() -> None:
    """What such a token could take the place of is not foreseen; the model may write it."""
    assert foreseen('start: "0: \\"" /[A-Z]/') == ["0"]
    assert foreseen('start: "0: \\"x" /[A-Z]/') == list('0: "x')
    assert foreseen('start: "00a" /[a-z]/') == list("00"), "pairs of these letters are tokens"
    tokens = Added()
    compiler = GrammarCompiler(lambda: tokens)
    state = compiler.compile("t", 'start: "0: \\"" /[A-Z][a-z]*/').result(30).after(tokens.encode("0"))
    assert state.matcher.validate_tokens([tokens.spelled.index(b': "Rom')]) == 1
    compiler.close()


def test_the_end_is_never_foreseen() -> None:
    """The last token of an answer leaves nothing to draw behind it."""
    assert foreseen('start: "0xyz"') == list("0xy")


def test_special_tokens_stand_for_themselves() -> None:
    """Text on both sides of one is text, and it is foreseen itself."""
    special = Letters(256).spelled[SPECIAL].decode()
    assert foreseen(f'start: "0x" <[{SPECIAL}]> "y0" /[a-z]/') == [*"0x", special, *"y0"]
    assert foreseen(f'start: "0: \\"" <[{SPECIAL}]> /[a-z]/') == [*'0: "', special]


def test_a_very_long_text_is_looked_at_in_part() -> None:
    """Its beginning is enough."""
    assert foreseen(f'start: "{"x" * 3 * LONGEST_TEXT}" /[a-z]/', 3 * LONGEST_TEXT) == ["x"] * LONGEST_TEXT
