"""The metrics bench: one tiny run of both stacks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.repository import ROOT


@pytest.mark.process
@pytest.mark.slow  # two stacks are started
@pytest.mark.timeout(600)
def test_both_stacks_answer_and_one_is_scraped() -> None:
    """As many tokens with metrics as without, processor time of each side, and a ratio of every pair."""
    command = [sys.executable, "-m", "quire_services.cli", "bench", "metrics", "--json", "--pairs=2", "--model=tiny"]
    command += ["--kv-gib=0.0625", "--scale=0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=True)
    figures = json.loads(done.stdout)["figures"]
    off, on = (figures["samples"][way] for way in ("off", "on"))

    assert [one["output_tokens"] for one in off] == [one["output_tokens"] for one in on]
    assert all(one["cpu_ms_per_token"] > 0 for one in (*off, *on))
    assert set(figures["ratios"]) == {"output_tokens_per_s", "cpu_ms_per_token", "inter_token_p50_s"}
