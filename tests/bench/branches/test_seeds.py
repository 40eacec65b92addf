"""A seed's text is the same alone and in a batch of 32, however that is computed; and how near that was."""

from __future__ import annotations

import argparse

import pytest

from bench.branches.draws import Draw
from bench.branches.seeds import Texts, add_arguments, compared, run
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32


@pytest.mark.slow
@pytest.mark.process
def test_texts_depend_on_nothing_but_their_requests(capsys: pytest.CaptureFixture[str]) -> None:
    """Greedy, drawn, filtered and held to a grammar; in chunks, preempted, cached, elsewhere, without drafts."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    report = run(parser.parse_args(["--requests=32", "--tokens=8", "--seeds=1"]))
    conditions, margins = report.figures["conditions"], report.figures["margins"]
    with capsys.disabled():
        print("\nleast margins:", {way: f"{one['least']:.2g}" for way, one in margins.items()})
    assert {name: one["differ"] for name, one in conditions.items()} == dict.fromkeys(conditions, 0)
    assert {one["texts"] for one in conditions.values()} == {32}
    assert conditions["short of memory"]["preemptions"] > 0
    assert conditions["one batch"]["forced_tokens"] > conditions["without drafts"]["forced_tokens"] == 0
    assert report.figures["batch_invariant"]
    assert {(one["moved"], one["moved_logits"]) for one in conditions.values()} == {(0.0, 0.0)}


def test_where_a_text_first_differs_is_told_with_its_margin() -> None:
    """The token, how near its draw was alone, what the boundary moved by, and the most that one moved in that batch."""
    asked = [
        Generate(name, "t", pack_u32([9] * 5), Sampling(4, temperature=1.0, seed=seed))
        for name, seed in [("a", 1), ("b", 5)]
    ]
    counters = {"preemptions": 0, "forced_tokens": 0}
    alone = Texts({"a": [7, 8, 9], "b": [7, 7]}, counters=counters)
    other = Texts({"a": [7, 4, 4], "b": [7, 7]}, counters=counters)
    alone.draws = {(1, 0, 5): Draw(7, 0.1, (0.2, 0.5)), (1, 0, 6): Draw(8, 1e-8, (0.4, 0.7))}
    other.draws = {(1, 0, 5): Draw(7, 0.1, (0.2, 0.5 + 2e-6)), (1, 0, 6): Draw(4, 3e-8, (0.1, 0.4))}
    found = compared(asked, alone, other)
    assert (found["texts"], found["differ"], found["moved_logits"]) == (2, 1, 0)
    (where,) = found["differing"]
    assert {key: where[key] for key in ("request", "way", "seed", "token", "margin")} == {
        "request": "a", "way": "drawn", "seed": 1, "token": 1, "margin": 1e-8
    }  # fmt: skip
    assert (where["moved"], where["moved_most"]) == pytest.approx((4e-8, 2e-6))
