"""Compiling grammars: what is refused, what is kept, and when the vocabulary is read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from quire_engine.grammar import compiler as module
from quire_engine.grammar.compiler import GrammarCompiler, GrammarRefused
from quire_proto.gateway_link import MAX_GRAMMAR
from tests.support.grammars import Letters

LETTERS = Letters(256)


def schema(of: object) -> str:
    return json.dumps({"grammars": [{"json_schema": of}]})


@pytest.fixture
def compiler() -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(lambda: LETTERS)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('start: "a', "lexer error"),
        ("start: foo", "unknown name"),
        ("start: /(/", "invalid regex"),
        (schema({"type": "nonsense"}), "Invalid type"),
        ("start: " + "(" * 20_000 + '"a"' + ")" * 20_000, "too deeply nested"),
        ('{"grammars": [{"json_schema": ' + '{"items":' * 5000 + "{}" + "}" * 5000 + "}]}", "recursion limit"),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_reason(compiler: GrammarCompiler, text: str, said: str) -> None:
    with pytest.raises(GrammarRefused, match=said):
        compiler.compile("tenant", text).result(30)


@pytest.mark.parametrize(
    "text",
    [
        'start: "' + "a" * MAX_GRAMMAR + '"',
        schema({"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(3, 14)]}),
        schema({"enum": [f"value{i}" * 3 for i in range(100_000)]}),
    ],
)
def test_too_expensive_a_grammar_is_refused(compiler: GrammarCompiler, text: str) -> None:
    """Too long a text, and a text whose grammar is too large, are refused; others are compiled afterwards."""
    with pytest.raises(GrammarRefused):
        compiler.compile("tenant", text).result(60)
    assert compiler.compile("tenant", 'start: "a"').result(30).after([]).error == ""


def test_grammars_are_kept_for_their_tenant(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text is compiled once for a tenant, and again for another; the longest unused is forgotten first."""
    monkeypatch.setattr(module, "KEPT", 2)
    first = compiler.compile("one", 'start: "a"')
    assert compiler.compile("one", 'start: "a"') is first
    assert compiler.compile("two", 'start: "a"') is not first
    assert compiler.compile("one", 'start: "a"') is first
    compiler.compile("one", 'start: "b"')
    assert compiler.compile("one", 'start: "a"') is first
    assert len(compiler._kept) == 2


def test_the_vocabulary_is_read_once_and_only_when_asked(compiler: GrammarCompiler) -> None:
    """Nothing is read before the first grammar, and grammars that come together read it once."""
    read, go_on = [], threading.Event()

    def tokens() -> Letters:
        read.append(threading.current_thread())
        assert go_on.wait(30)
        return LETTERS

    lazy = GrammarCompiler(tokens)
    assert read == []
    both = [lazy.compile("tenant", f'start: "{letter}"') for letter in "ab"]
    go_on.set()
    assert [future.result(30).after([]).error for future in both] == ["", ""]
    assert len(read) == 1
    assert read[0] is not threading.current_thread()
    lazy.close()


def test_a_vocabulary_that_cannot_be_read_is_no_ones_grammar(compiler: GrammarCompiler) -> None:
    """What reading it raises comes out of the future as it is."""

    def tokens() -> Letters:
        raise OSError("no tokenizer")

    broken = GrammarCompiler(tokens)
    with pytest.raises(OSError, match="no tokenizer"):
        broken.compile("tenant", 'start: "a"').result(30)
    broken.close()


def test_a_mask_that_would_take_long_is_an_error_of_its_place(compiler: GrammarCompiler) -> None:
    """Where each token makes the next mask dearer, the answer ends there; a grammar that is long and plain does not."""
    plain = compiler.compile("tenant", "start: " + "(" + " | ".join(f'"a{i:04}"' for i in range(3000)) + ")*")
    for future, ends in ((compiler.compile("tenant", 'start: e\ne: e e | "a" | e "b" e | '), True), (plain, False)):
        state = future.result(60).after([])
        for character in "a0123" * 40 if not ends else "a" * 200:
            state.matcher.compute_bitmask()
            if state.error:
                break
            state.accept(LETTERS.encode(character))
        assert ("too many items" in state.error.lower()) == ends, state.error
