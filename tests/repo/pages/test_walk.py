"""The walk through the code: every answer names a line that is there (``python scripts/walk.py`` finds them anew)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import script

walk: Any = script("walk")


def test_each_answer_names_the_line_that_is_there() -> None:
    """By its number, too."""
    text = walk.PAGE.read_text()
    assert walk.refreshed(text, walk.PAGE.parent) == text, "run: python scripts/walk.py"
    assert len(walk.ANSWER.findall(text)) == text.count("#L"), "an answer is on one line"


def test_each_question_has_an_answer() -> None:
    """Ten questions at least, each with a line of code."""
    parts = re.split(r"^## (.*\?)$", walk.PAGE.read_text(), flags=re.MULTILINE)
    answers = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert len(answers) >= 10
    assert [question for question, answer in answers.items() if not walk.ANSWER.search(answer)] == []


def test_a_line_that_moved_is_found(tmp_path: Path) -> None:
    """The number follows the line, in the label and in the link."""
    (tmp_path / "pool.py").write_text("class Pool:\n    def release(self):\n")
    page = "See [`pool.py:7 def release`](pool.py#L9), not [the pool](pool.py)."
    assert walk.refreshed(page, tmp_path) == "See [`pool.py:2 def release`](pool.py#L2), not [the pool](pool.py)."


@pytest.mark.parametrize("code", ["def release_all():\n", "def release():\n    def release():\n", None])
def test_a_line_that_is_gone_is_seen(tmp_path: Path, code: str | None) -> None:
    """So are a beginning that two lines have, and a file that is not there."""
    if code is not None:
        (tmp_path / "pool.py").write_text(code)
    with pytest.raises(walk.Lost):
        walk.refreshed("[`pool.py:1 def release`](pool.py#L1)", tmp_path)
