"""Launch parameters: valid for whatever is asked, with safe fall-backs."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import product
from typing import Any

import pytest
import torch
import triton

from quire_kernels.gpu import launch_table
from quire_kernels.gpu.launch_table import (
    SHARED_LIMIT,
    Launch,
    _shared_estimate,
    fallbacks,
    launch_for,
    programs_per_sm,
    rule,
)
from quire_kernels.gpu.tiling import REGIMES


def powers(launch: Launch) -> bool:
    """Whether the compiler accepts the sizes at all."""
    sizes = (launch.block_m, launch.block_n, launch.num_warps)
    return min(launch.block_m, launch.block_n) >= 16 and all(size & (size - 1) == 0 for size in sizes)


def rows() -> list[dict[str, Any]]:
    """The checked-in rows."""
    found: list[dict[str, Any]] = json.loads(files("quire_kernels.gpu").joinpath("launch_table.json").read_text())[
        "rows"
    ]
    return found


def test_rows_of_the_table_are_valid() -> None:
    """Each checked-in row is found by its key, a row without a number of heads by any that its tile holds."""
    for row in rows():
        dtype = getattr(torch, row["dtype"])
        key = (row["arch"], row["head_dim"], row["group"] or row["block_m"], dtype, row["regime"])
        found = launch_for(*key)
        assert found == Launch(**{name: row[name] for name in Launch.__dataclass_fields__})
        assert launch_for(row["arch"], row["head_dim"], 2 * row["block_m"], dtype, row["regime"]) != found
        assert row["regime"] in REGIMES
        assert powers(found)


def test_a_row_for_these_heads_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured row of one number of heads is taken before the row of any number."""
    any_heads, of_four = Launch(16, 64, 4, 5), Launch(16, 32, 4, 5)
    known = {("sm_90", 128, None, "bfloat16", "decode"): any_heads, ("sm_90", 128, 4, "bfloat16", "decode"): of_four}
    monkeypatch.setattr(launch_table, "table", lambda: known)

    assert launch_for("sm_90", 128, 4, torch.bfloat16, "decode") == of_four
    assert launch_for("sm_90", 128, 8, torch.bfloat16, "decode") == any_heads
    assert launch_for("sm_90", 128, 32, torch.bfloat16, "decode").block_m == 32


def test_known_chips_overlap_loads() -> None:
    """On each chip with rows, decode has two buffers and prefill in 16 bits three, or the row says why it has fewer."""
    found = rows()
    assert {row["arch"] for row in found} == {"sm_80", "sm_89", "sm_90", "sm_100"}
    for row in found:
        least = 3 if row["regime"] == "prefill" and row["dtype"] != "float8_e4m3fn" else 2
        assert row["kv_buffers"] >= least or "with a third" in row["source"], row
        assert row["source"].removeprefix("not measured: ")


def test_programs_of_a_multiprocessor() -> None:
    """Registers, shared memory and warps each bound how many programs a multiprocessor holds."""
    assert programs_per_sm("sm_90", 4, 168, 72704) == 3
    assert programs_per_sm("sm_90", 4, 169, 72704) == 2
    assert programs_per_sm("sm_89", 4, 168, 72704) == 1
    assert programs_per_sm("sm_89", 8, 16, 0) == 6


def test_the_rule_fits_every_chip() -> None:
    """Without a row, launches fit the shared memory, unknown architectures included."""
    dtypes = (torch.float32, torch.bfloat16, torch.float8_e4m3fn)
    for arch, width, group, dtype, regime in product(
        (*SHARED_LIMIT, "sm_70"), (48, 128, 256), (1, 7, 71), dtypes, REGIMES
    ):
        if (width, group) == (256, 71):
            continue  # 128 rows of 256 float32 alone fill a small chip; no model has 71 heads of 256 on one KV head
        launch = rule(arch, width, group, dtype, regime)
        assert launch.block_m >= group
        assert powers(launch)
        padded = triton.next_power_of_2(width)
        assert _shared_estimate(launch, padded, dtype) <= SHARED_LIMIT.get(arch, min(SHARED_LIMIT.values()))


def test_fallbacks_keep_the_tiles() -> None:
    """What is tried after a refused launch needs less shared memory and the same tiles."""
    chain = fallbacks(Launch(64, 128, 8, 3))

    assert chain[0] == Launch(64, 128, 8, 3)
    assert {launch.block_m for launch in chain} == {64}
    needs = [_shared_estimate(launch, 128, torch.bfloat16) for launch in chain]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == len(chain) > 3
