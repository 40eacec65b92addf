"""Launch parameters: valid for whatever is asked, with safe fall-backs."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import product

import torch
import triton

from quire_kernels.gpu.launch_table import SHARED_LIMIT, Launch, _shared_estimate, fallbacks, launch_for, rule
from quire_kernels.gpu.tiling import REGIMES


def powers(launch: Launch) -> bool:
    """Whether the compiler accepts the sizes at all."""
    sizes = (launch.block_m, launch.block_n, launch.num_warps)
    return min(launch.block_m, launch.block_n) >= 16 and all(size & (size - 1) == 0 for size in sizes)


def test_rows_of_the_table_are_valid() -> None:
    """Each checked-in row is found by its key and holds all query heads of a KV head."""
    rows = json.loads(files("quire_kernels.gpu").joinpath("launch_table.json").read_text())["rows"]

    assert rows
    for row in rows:
        found = launch_for(row["arch"], row["head_dim"], row["group"], getattr(torch, row["dtype"]), row["regime"])
        assert found == Launch(row["block_m"], row["block_n"], row["num_warps"], row["num_stages"])
        assert found.block_m >= row["group"]
        assert row["regime"] in REGIMES
        assert powers(found)


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
