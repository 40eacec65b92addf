"""Texts that would take hours: refused after seconds, beside others, and nothing is left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quire_engine.grammar.compiler import GrammarCompiler, GrammarRefused
from quire_engine.grammar.trial import Trial
from tests.support.children import python_child
from tests.support.grammars import Letters
from tests.support.waits import wait_for

ENDLESS = "start: X\nX: /(.*a.{18})/ & ~/(.*b.{18})/ & /(.*c.{17})/"


@pytest.mark.process
def test_an_endless_text_is_refused_and_others_do_not_wait_for_it() -> None:
    """Its tenant's next text comes after it, other tenants' at once, and what was refused is not tried again."""
    compiler = GrammarCompiler(lambda: Letters(256))
    compiler.compile("other", 'start: "a"').result(30)
    endless = [compiler.compile("one", ENDLESS + " " * i) for i in range(2)]
    behind = compiler.compile("one", 'start: "a"')
    for letter in "bcdef":
        assert compiler.compile("other", f'start: "{letter}"').result(30).after([]).error == ""
    assert not endless[0].done()
    for future in endless:
        with pytest.raises(GrammarRefused, match="too much time or memory"):
            future.result(60)
    assert behind.result(30).after([]).error == ""
    assert compiler.compile("one", ENDLESS).done()
    compiler.close()


@pytest.mark.process
def test_a_trial_goes_on_in_a_new_process() -> None:
    """What is no grammar is for the engine to say; where the process has died, the next text finds another."""
    trial = Trial(Letters(256))
    assert trial.survives('start: "a"')
    assert trial.survives("start: (")
    assert trial._process is not None
    trial._process.kill()
    assert not trial.survives('start: "b"')
    assert trial.survives('start: "b"')
    trial.close()
    assert trial._process is None


def test_a_trial_that_cannot_start_is_no_fault_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short the engine ends for it, and another one compiles the text."""
    trial = Trial(Letters(256))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(MemoryError, match="cannot start"):
            trial.survives('start: "a"')
    assert trial.survives('start: "a"')
    trial.close()


OWNER = """
from quire_engine.grammar.trial import Trial
from tests.support.grammars import Letters
trial = Trial(Letters(256))
assert trial.survives('start: "a"')
print("ready", flush=True)
print(trial._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.process
def test_nothing_is_left_of_a_killed_engine() -> None:
    """The trial's process ends when the engine's does, however that ends."""
    with python_child(OWNER, says="ready") as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        owner.kill()
        wait_for(lambda: not _runs(pid), "the process has ended", 10)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
