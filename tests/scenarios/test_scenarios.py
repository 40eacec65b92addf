"""Every scenario of this folder holds. ``QUIRE_SCENARIOS=rewrite`` writes down what came out instead, for review."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.runner import play
from tests.scenarios.words import ScenarioError

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*/*.txt"))


def difference(path: Path, written: str, came_out: str) -> str:
    """The first lines that differ, as a person wants to read them."""
    pairs = zip(written.splitlines(), came_out.splitlines(), strict=True)
    differ = [(number, *pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1]]
    shown = [f"{path}:{number}\n  says      {left}\n  came out  {right}" for number, left, right in differ[:5]]
    more = [f"and {len(differ) - 5} more lines"] if len(differ) > 5 else []
    return "\n".join([*shown, *more])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_a_scenario_holds(path: Path, tmp_path: Path) -> None:
    """What came out is the file, to the letter."""
    written = path.read_text()
    try:
        came_out = play(written, tmp_path)
    except ScenarioError as exc:
        pytest.fail(f"{path}:{exc}", pytrace=False)
    if os.environ.get("QUIRE_SCENARIOS") == "rewrite":
        path.write_text(came_out)
    elif came_out != written:
        pytest.fail(difference(path, written, came_out), pytrace=False)
