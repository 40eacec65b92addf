"""A seed's text is the same alone and in a batch of 32, however that is computed; and how near that was."""

from __future__ import annotations

import argparse

import pytest

from bench.branches.seeds import add_arguments, run


@pytest.mark.process
def test_texts_depend_on_nothing_but_their_requests(capsys: pytest.CaptureFixture[str]) -> None:
    """Greedy, drawn, filtered and held to a grammar; in chunks, preempted, cached, elsewhere, forced tokens drawn."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    report = run(parser.parse_args(["--requests=32", "--tokens=8", "--seeds=1"]))
    conditions, margins = report.figures["conditions"], report.figures["margins"]
    with capsys.disabled():
        print("\nleast margins:", {way: f"{one['least']:.2g}" for way, one in margins.items()})
    assert {name: one["differ"] for name, one in conditions.items()} == dict.fromkeys(conditions, 0)
    assert {one["texts"] for one in conditions.values()} == {32}
    assert conditions["short of memory"]["preemptions"] > 0
    assert conditions["one batch"]["forced_tokens"] > conditions["forced tokens drawn"]["forced_tokens"] == 0
    moved = max(one["moved"] for one in conditions.values())
    assert min(one["least"] for way, one in margins.items() if way != "greedy") > moved
    assert margins["greedy"]["least"] > max(one["moved_logits"] for one in conditions.values())
