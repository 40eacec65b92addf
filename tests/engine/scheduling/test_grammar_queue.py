"""Requests that wait for their grammar: what becomes of them when it cannot be had."""

from __future__ import annotations

import errno
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from quire_engine.grammar.compiler import GrammarRefused
from quire_engine.scheduling.grammar_queue import GrammarQueue, Held

LACKS = [MemoryError("none"), OSError(errno.ENOMEM, "Cannot allocate memory")]


def entered(error: Exception) -> tuple[str, str, str]:
    """What the queue makes of a grammar that failed so."""
    grammar = Future[Any]()
    grammar.set_exception(error)
    nothing: Any = None
    sequence: Any = SimpleNamespace(request=SimpleNamespace(id="one"))
    return GrammarQueue(nothing, nothing, nothing, nothing)._enter(Held(sequence, grammar))


@pytest.mark.parametrize("lack", LACKS, ids=["python", "system"])
def test_an_engine_that_has_no_memory_for_it_ends(lack: Exception) -> None:
    """The request is not answered with an error: it goes on in an engine that has."""
    with pytest.raises(MemoryError):
        entered(lack)


def test_what_is_wrong_with_it_is_answered() -> None:
    """A refused grammar is the client's to mend; files that cannot be read are the operator's."""
    assert entered(GrammarRefused("too long")) == ("error", "grammar", "too long")
    assert entered(OSError(errno.ENOENT, "tokenizer.json"))[:2] == ("error", "internal")
