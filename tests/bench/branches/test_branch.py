"""The bench of branches counts what the kvstore holds."""

from __future__ import annotations

import argparse

import pytest

from bench.branches.branch import add_arguments, run


@pytest.mark.process
def test_beams_save_more_than_samples_and_without_sharing_both_hold_as_much() -> None:
    """Two requests of two branches each; nothing but the sharing differs."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    report = run(parser.parse_args(["--n=2", "--beam=2", "--requests=2", "--data=alpaca"]))
    parallel, beam = report.figures["alpaca/parallel/2"], report.figures["alpaca/beam/2"]
    assert parallel["unshared"] == pytest.approx(beam["unshared"], rel=0.02)
    assert 0 < parallel["saved_percent"] < beam["saved_percent"]
    assert beam["forks"] > beam["copies"] > parallel["copies"] > 0
    assert "6.1 - 9.8" in report.markdown()
