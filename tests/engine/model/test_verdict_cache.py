"""An outcome is kept as long as nothing that it depends on has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quire_engine.model.selftest import verdict_cache
from quire_engine.model.selftest.verdict_cache import found_once


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return []


def check(made: list[str], outcome: str = "found") -> Callable[[], str]:
    def find() -> str:
        made.append(outcome)
        return outcome

    return find


def test_an_outcome_is_found_once(made: list[str]) -> None:
    """The second time it is read; another check, another model and another library are looked at anew."""
    assert [found_once("rows", ("a", 1), check(made)) for _ in range(2)] == ["found"] * 2
    assert made == ["found"]
    found_once("rows", ("a", 2), check(made))
    found_once("columns", ("a", 1), check(made))
    assert len(made) == 3


def test_an_outcome_of_other_code_is_not_believed(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's new version, or a changed file of the package."""
    found_once("rows", (), check(made))
    monkeypatch.setattr(verdict_cache, "version", lambda library: f"{library} 99")
    assert found_once("rows", (), check(made, "other")) == "other"


def test_nothing_is_lost_where_nothing_can_be_kept(made: list[str], tmp_path: Path) -> None:
    """A file in the place of the directory: the check is made each time."""
    (tmp_path / "cache").write_text("")
    assert [found_once("rows", (), check(made)) for _ in range(2)] == ["found"] * 2
    assert made == ["found"] * 2


def test_an_empty_outcome_is_kept_too(made: list[str]) -> None:
    """Which is what a model has of which nothing is wrong."""
    assert [found_once("rows", (), check(made, "")) for _ in range(2)] == ["", ""]
    assert made == [""]
