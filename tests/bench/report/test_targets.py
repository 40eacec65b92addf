"""Targets read from results on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.processes.side import SideError
from bench.report import figures
from bench.report.targets import Target, of_file


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of results."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    return tmp_path


def found(results: Path, bench: str, measured: dict[str, Any]) -> dict[str, Target]:
    (results / "one.json").write_text(json.dumps({"bench": bench, "figures": measured}))
    return {target.what: target for target in of_file("one")}


def test_targets_of_a_serve_result(results: Path) -> None:
    """Rates are to be high, times and bytes low; the peer's isolated and open runs have targets of their own."""
    ratios = {
        "vllm isolated cold": {"output_tokens_per_s": 2.4, "ttft_p50_s": 0.7},
        "vllm isolated warm": {"prompt_kv_mib": 0.1252},
        "vllm open cold": {"output_tokens_per_s": 0.98},
    }
    sides = {"quire cold": {"floor_share": 0.5}}
    targets = found(results, "serve", {"floor_gflops": {}, "herd": {"ratios": ratios, "sides": sides}})

    assert {what: target.met for what, target in targets.items()} == {
        "herd, tokens/s, ours / vLLM isolated": True,
        "herd, TTFT p50, ours / vLLM isolated": False,
        "herd, KV of the prompt, ours / vLLM isolated": True,
        "herd, tokens/s, ours / vLLM open, cold": False,
        "herd, our share of the floor, cold": False,
    }


def test_private_prompts_have_no_isolated_target(results: Path) -> None:
    """Where nothing is shared, isolation costs the peer nothing and only the open comparison counts."""
    ratios = {f"vllm {way} cold": {"output_tokens_per_s": 1.0} for way in ("open", "isolated")}
    targets = found(results, "serve", {"private": {"ratios": ratios, "sides": {}}})

    assert list(targets) == ["private, tokens/s, ours / vLLM open, cold"]


def test_targets_of_other_results(results: Path) -> None:
    """Control costs are to be below a share of the peer's; a bench without targets has none."""
    cases = {"decode step, 256 sequences": {"ratio": 0.06, "ours": {"wall_p99_us": 900.0}}}
    control = found(results, "control", {"cases": cases})
    rates = [{"static": 0.3, "over_static": 2.5, "at_least": True}]

    assert [target.met for target in control.values()] == [False, True]
    assert all(
        target.met for target in found(results, "paged", {"quire_over_static": 2.1, "sustained": rates}).values()
    )
    assert found(results, "chaos", {}) == {}


def test_result_that_is_not_there(results: Path) -> None:
    """A name without a file is an error that says so."""
    with pytest.raises(SideError, match="nothing"):
        of_file("nothing")
