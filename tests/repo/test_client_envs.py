"""Environments of the client suites: made once, made anew when their pins change, every package pinned."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import script

envs: Any = script("client_envs")
check_pins: Any = script("check_pins")


@pytest.mark.process
def test_an_environment_is_made_when_its_pins_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first and with other pins; left as it is while they are the same."""
    monkeypatch.setattr(envs, "SUITES", tmp_path / "suites")
    pins = tmp_path / "suites" / "some" / "requirements.txt"
    pins.parent.mkdir(parents=True)
    pins.write_text("")
    said = [envs.make("some", tmp_path / "made", os.environ)]
    python = tmp_path / "made" / "some" / "bin" / "python"
    assert python.exists()
    made = python.parent.stat().st_ino
    said.append(envs.make("some", tmp_path / "made", os.environ))
    assert python.parent.stat().st_ino == made
    pins.write_text("# other\n")
    said.append(envs.make("some", tmp_path / "made", os.environ))
    assert [text == "as it was" for text in said] == [False, True, False]


def test_a_name_that_is_no_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """By a line that says which there are."""
    with pytest.raises(SystemExit):
        envs.main(["lang"])
    assert "langchain" in capsys.readouterr().err


def test_whatever_a_suite_asks_for_is_pinned() -> None:
    """Of Python's: each name in one file stands in the other with its version."""
    for name in envs.suites():
        asked = envs.SUITES / name / "requirements.in"
        if asked.exists():
            pinned = check_pins.pins(envs.SUITES / name / "requirements.txt")
            names = {re.split(r"[\[<=>]", line)[0] for line in asked.read_text().split()}
            assert {check_pins.normal(one) for one in names} <= pinned.keys(), name
