"""The sweep: what it tries, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import sweep
from quire_kernels.gpu.launch_table import Launch


def test_the_space_holds_what_compiles_well() -> None:
    """Launches with two and three buffers of keys and values and several programs a multiprocessor are tried."""
    decode, prefill = sweep.candidates("decode", 4), sweep.candidates("prefill", 4)

    assert {Launch(16, 64, 4, 5, 168, 3), Launch(16, 32, 4, 5, 128, 4), Launch(16, 64, 4, 2, 255, 2)} <= set(decode)
    assert {Launch(128, 64, 8, 5, 255, 1), Launch(64, 32, 4, 7, 255, 2)} <= set(prefill)
    assert len(decode) <= 60


def test_a_measured_row_joins_those_of_any_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing keeps rows of other keys, those without a number of heads too, and replaces the one of its key."""
    table = tmp_path / "table.json"
    row: dict[str, Any] = {"arch": "sm_90", "head_dim": 128, "group": None, "dtype": "bfloat16", "regime": "decode"}
    table.write_text(json.dumps({"note": "kept", "rows": [row | {"source": "chosen"}]}))
    monkeypatch.setattr(sweep, "TABLE", table)

    for source in ("first", "second"):
        sweep.write_launch_rows([row | {"group": 4, "source": source}])

    content = json.loads(table.read_text())
    assert content["note"] == "kept"
    assert [(r["group"], r["source"]) for r in content["rows"]] == [(4, "second"), (None, "chosen")]
