"""The metrics bench: one tiny run of its stacks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.repository import ROOT


@pytest.mark.process
@pytest.mark.slow  # three stacks are started
@pytest.mark.timeout(600)
def test_all_stacks_answer_alike() -> None:
    """As many tokens with metrics and with traces as without, processor time of each, and ratios of every round."""
    command = [sys.executable, "-m", "quire_services.cli", "bench", "metrics", "--json", "--pairs=2", "--model=tiny"]
    command += ["--kv-gib=0.0625", "--scale=0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout)["figures"]
    samples = figures["samples"]

    assert set(samples) == {"off", "metrics", "traces"}
    assert len({tuple(one["output_tokens"] for one in of) for of in samples.values()}) == 1
    assert all(one["cpu_ms_per_token"] > 0 for of in samples.values() for one in of)
    assert set(figures["ratios"]) == {"metrics / off", "traces / off"}
    for ratios in figures["ratios"].values():
        assert set(ratios) == {"output_tokens_per_s", "cpu_ms_per_token", "inter_token_p50_s"}
