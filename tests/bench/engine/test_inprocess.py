"""The benches that run an engine in their own process: tiny settings, valid JSON, sums that add up."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.repository import ROOT


def bench(*arguments: str) -> dict[str, Any]:
    """The figures of a bench run."""
    command = [
        sys.executable,
        "-m",
        "quire_services.cli",
        "bench",
        *arguments,
        "--json",
        "--threads=1",
        "--model=tiny",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)["figures"]
    return figures


@pytest.mark.process
def test_engine_splits_a_step() -> None:
    """The parts of a decode step are no more than the step; what is done to logits is part of sampling."""
    figures = bench("engine", "--quick")
    decode = figures["shared"]["decode"]
    others = ("step", "steps", "rows", "sequences", "wall", "share_of_floor", "detokenise")
    parts = sum(value for name, value in decode.items() if name not in others)

    assert decode["rows"] == 4
    assert decode["detokenise"] > 0
    assert 0 < parts <= decode["step"]
    assert figures["adjusted"]["decode"]["sample"] > decode["sample"]


@pytest.mark.process
@pytest.mark.slow
def test_paged_compares_three_ways() -> None:
    """Each way of handing out memory serves all requests; blocks run at least as many at a time."""
    figures = bench("paged", "--pairs=1", "--requests=8", "--mean=60", "--longest=512", "--budget=2048", "--rates=0")
    running = {row["mode"]: row["running"] for row in figures["runs"]}

    assert set(running) == {"static", "continuous", "quire"}
    assert running["quire"] >= running["static"]


@pytest.mark.process
@pytest.mark.slow
def test_grammars_are_a_part_of_the_step() -> None:
    """Steps of both kinds were measured, and what grammars add was found in those that have them and in no others."""
    figures = bench("grammars", "--pairs=1", "--rows=4", "--prompt=64")
    steps, parts = figures["steps"], ("wait", "lay", "accept")

    assert all(steps["free"][part] == 0 for part in parts)
    assert all(steps["held"][part] > 0 for part in parts)
    assert 0 < steps["parts_share"] < 1
    assert [row["vocabulary"] for row in figures["masks"]] == [8000, 32000, 128000]


@pytest.mark.slow
@pytest.mark.process
def test_layers_of_all_kinds_give_the_same_tokens() -> None:
    """Each side is timed in each turn, and in float32 all name the same tokens."""
    figures = bench("layers", "--rows=2", "--keys=32", "--turns=2")
    sides = ["own", "packed", "together", "fused"]
    for dtype in ("float32", "bfloat16"):
        decode, prefill = (figures[f"{dtype} {kind}"]["ms"] for kind in ("decode", "prefill"))
        assert [*decode] == [*sides, "generate"]
        assert [*prefill] == sides
        assert all(len(times) == 2 and min(times) > 0 for times in (*decode.values(), *prefill.values()))
    assert all(figures[f"float32 {kind}"]["same_tokens"] for kind in ("decode", "prefill"))
