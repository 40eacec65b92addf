"""The pools bench: one tiny run of its three arrangements."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.repository import ROOT


@pytest.mark.process
@pytest.mark.slow  # five stacks are started
@pytest.mark.timeout(600)
def test_one_pool_computes_a_published_prompt_once() -> None:
    """With one pool the shared prompt is computed once, with two pools twice, without publications once a tenant."""
    command = [sys.executable, "-m", "quire_services.cli", "bench", "pools", "--json", "--workload=shared-prompt"]
    command += ["--pairs=1", "--model=tiny", "--kv-gib=0.0625", "--scale=0.25"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=True)
    sides = json.loads(done.stdout)["figures"]["shared-prompt"]["sides"]
    one, split, alone = (sides[f"{way}, cold"] for way in ("one pool", "split", "split, nothing shared"))

    assert one["prompt_tokens_computed"] < split["prompt_tokens_computed"] < alone["prompt_tokens_computed"]
    assert one["hit_rate"] > split["hit_rate"] > alone["hit_rate"]
