"""Find launch parameters by measurement and write them into the kernels' launch table.

For each head_dim, query heads per KV head, dtype of keys and values, and regime, every sensible launch is timed
with CUDA events on a workload of that regime; the fastest becomes the row of this GPU's architecture. The inputs
rotate over several layers, so that the L2 cache does not hold them from one run to the next. Launches that do not
compile or do not fit the chip are skipped; an error of the device ends the sweep, for nothing after it can be trusted.
Rows of other architectures stay as they are.

Usage: python -m bench.gpu.sweep [--head-dim 128 ...] [--group 4 ...] [--dtype bfloat16 ...] [--regime decode ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton

from bench.gpu.kernels.clock import event
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_kernels.features import Features
from quire_kernels.gpu import paged_attention as op
from quire_kernels.gpu.device_work import Capacity, DeviceWork
from quire_kernels.gpu.launch_table import Launch, architecture, programs_per_sm
from quire_kernels.gpu.tiling import REGIMES, Shape, tile_items

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
TABLE = Path(__file__).resolve().parents[2] / "kernels" / "quire_kernels" / "gpu" / "launch_table.json"
KV_HEADS, BLOCK_SIZE, LAYERS, REPEATS = 8, 16, 8, 24


def workload(regime: str) -> AttentionPlan:
    """64 decodes of 4,096 tokens; the same over a shared prefix; a prompt of 4,096 tokens."""
    if regime == "prefill":
        return build_plan([np.arange(256, dtype=np.int32)], [0], [4096], BLOCK_SIZE)
    shared = 256 if regime == "group" else 0
    own = np.random.default_rng(0).permutation(64 * 264).astype(np.int32) + shared
    tables = [np.concatenate([np.arange(shared, dtype=np.int32), t[: 264 - shared]]) for t in own.reshape(64, 264)]
    return build_plan(tables, [264 * BLOCK_SIZE - 1] * 64, [1] * 64, BLOCK_SIZE)


def candidates(regime: str, group: int) -> list[Launch]:
    """Launches worth a try, with the programs a multiprocessor that their registers allow.

    Two buffers of keys and values take five stages, three seven (on some chips five): see ``launch_table``. Registers
    are bounded where that lets another program onto a multiprocessor.
    """
    least = max(16, triton.next_power_of_2(group))
    rows = {"decode": (least,), "group": (32, 64, 128), "prefill": (64, 128)}[regime]
    registers = {4: (255, 168, 128), 8: (255, 128)}
    sizes = product((m for m in rows if m >= least), (32, 64, 128), (4, 8), (2, 3, 5, 7))
    return [
        Launch(m, n, warps, stages, bound, programs_per_sm("", warps, bound, shared=0))
        for m, n, warps, stages in sizes
        for bound in registers[warps]
    ]


class Inputs:
    """Tensors of one combination, on the GPU."""

    def __init__(
        self, plan: AttentionPlan, head_dim: int, group: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        narrow = dtype == torch.float8_e4m3fn
        wide = torch.bfloat16 if narrow else dtype
        shape = (LAYERS, 2, KV_HEADS, int(plan.table.max()) + 1, BLOCK_SIZE, head_dim)
        self.arena = torch.zeros(shape, dtype=torch.uint8 if narrow else dtype, device=device)
        self.arena = self.arena.view(dtype) if narrow else self.arena.normal_()
        scale = torch.ones(KV_HEADS, device=device) if narrow else None
        self.features = Features(scale=head_dim**-0.5, k_scale=scale, v_scale=scale)
        rows, heads = len(plan.positions), KV_HEADS * group
        self.query = torch.randn(heads, rows, head_dim, dtype=wide, device=device)
        self.out = torch.empty(rows, heads, head_dim, dtype=wide, device=device)


class TiledWorkload:
    """The workload, tiled for one launch.

    Raises:
        triton.CompilationError, triton.runtime.errors.OutOfResources: when run, if this chip does not take the launch.
    """

    def __init__(self, plan: AttentionPlan, inputs: Inputs, regime: str, launch: Launch) -> None:
        device = inputs.query.device
        sm_count = torch.cuda.get_device_properties(device).multi_processor_count
        heads, _, width = inputs.query.shape
        shape = Shape(KV_HEADS, heads // KV_HEADS, dict.fromkeys(REGIMES, launch), sm_count)
        tiles = tile_items(plan.items(), plan.positions, BLOCK_SIZE, shape)
        self.inputs, self.regime, self.launch = inputs, regime, launch
        self.work = DeviceWork(Capacity.of(tiles, len(plan.positions), len(plan.table)), device)
        self.work.refill(tiles, plan.positions, plan.slots, plan.table)
        self.parts = (
            torch.empty(tiles.partials, heads, width, device=device),
            torch.empty(tiles.partials, heads, device=device),
        )
        self.grid = (KV_HEADS, len(tiles.records[regime]))

    def run(self, layer: int) -> Any:
        """One launch, which gives the compiled kernel."""
        inputs = self.inputs
        keys, values = inputs.arena[layer]
        arguments: dict[str, Any] = op.attention_arguments(
            inputs.query,
            keys,
            values,
            self.work,
            self.regime,
            self.launch,
            inputs.features,
            inputs.out,
            *self.parts,
        )
        return op._kernel[self.grid](**arguments, **self.launch.options)


def measured(plan: AttentionPlan, inputs: Inputs, regime: str, launch: Launch) -> tuple[float, Launch] | None:
    """Median milliseconds, and the launch with what it compiled to; None if the chip does not take it."""
    arch, buffers = architecture(inputs.query.device), import_module("machine_code").kv_buffers
    try:
        built = TiledWorkload(plan, inputs, regime, launch).run(0)
    except (triton.runtime.errors.OutOfResources, triton.CompilationError) as error:
        print(f"  {launch}: {type(error).__name__}")
        return None
    per_sm = programs_per_sm(arch, launch.num_warps, built.n_regs, built.metadata.shared)
    found = replace(launch, per_sm=per_sm, kv_buffers=max(1, buffers(built.asm["ttgir"])))
    step, times = TiledWorkload(plan, inputs, regime, found), []
    for i in range(REPEATS):
        begin, end = event(), event()
        begin.record()
        step.run(i % LAYERS)
        end.record()
        times.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(float(begin.elapsed_time(end)) for begin, end in times[4:]), found


def best_row(head_dim: int, group: int, dtype: str, regime: str, device: torch.device) -> dict[str, Any] | None:
    """The table's row for one combination."""
    plan = workload(regime)
    inputs = Inputs(plan, head_dim, group, getattr(torch, dtype), device)
    every = (measured(plan, inputs, regime, launch) for launch in candidates(regime, group))
    found = sorted((pair for pair in every if pair is not None), key=lambda pair: pair[0])
    if not found:
        return None
    time, launch = found[0]
    print(f"{regime} d{head_dim} g{group} {dtype}: {launch} {time:.3f} ms, slowest {found[-1][0]:.3f} ms", flush=True)
    return {
        "arch": architecture(device),
        "head_dim": head_dim,
        "group": group,
        "dtype": dtype,
        "regime": regime,
        **asdict(launch),
        "source": f"sweep, {torch.cuda.get_device_name(device)}, triton {triton.__version__}, {time:.3f} ms",
    }


def write_launch_rows(rows: list[dict[str, Any]]) -> None:
    """Replace the rows with the same keys, one row a line."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    keys = ("arch", "head_dim", "group", "dtype", "regime")
    kept = {tuple(row[k] for k in keys): row for row in [*table["rows"], *rows]}
    lines = ",\n".join(f"    {json.dumps(kept[key])}" for key in sorted(kept, key=str))
    TABLE.write_text(f'{{\n  "note": {json.dumps(table["note"])},\n  "rows": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def main() -> int:
    """Sweep and write; 1 without a GPU."""
    parser = argparse.ArgumentParser(description="measure launch parameters and write the launch table")
    parser.add_argument("--head-dim", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--group", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"])
    parser.add_argument("--regime", nargs="+", choices=REGIMES, default=list(REGIMES))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("sweep: no CUDA device is visible, and times of the interpreter mean nothing", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    combinations = product(options.head_dim, options.group, options.dtype, options.regime)
    found = [row for values in combinations if (row := best_row(*values, device)) is not None]
    write_launch_rows(found)
    print(f"sweep: {len(found)} rows written to {TABLE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
