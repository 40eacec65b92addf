"""The bench of grammars: what they add to a step, and what drafts save a call."""

from __future__ import annotations

import argparse

import pytest

from bench.engine import grammars


@pytest.mark.slow
@pytest.mark.process
def test_parts_of_a_step_and_drafts_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts are timed, and a call's tokens are the same without drafts and with them, in fewer steps then."""
    monkeypatch.setattr(grammars, "VOCABULARIES", (512,))
    parser = argparse.ArgumentParser()
    grammars.add_arguments(parser)
    report = grammars.run(parser.parse_args(["--model=tiny", "--rows=4", "--pairs=1", "--prompt=32"]))
    steps, calls = report.figures["steps"], report.figures["calls"]
    assert all(steps["held"][part] > 0 == steps["free"][part] for part in ("lay", "accept", "look"))
    assert 0 < steps["parts_share"] < 1
    assert [one["calls"] for one in calls] == [1, 1, 4, 4]
    for without, drafted in (calls[:2], calls[2:]):
        assert (without["tokens_a_step"], without["forced"]) == (1, 0)
        assert drafted["tokens"] == without["tokens"] > drafted["forced"] > 0
        assert drafted["tokens_a_step"] > 1
