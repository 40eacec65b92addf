"""Launches beside the one that is shipped: a few that promise more, and every one that is worth a try.

``candidates`` times two that keep more keys and values in shared memory (of three and two programs a
multiprocessor) and the table's own, on four decode steps. ``sweep`` times all of ``bench.gpu.sweep`` for decodes of
heads of 128 in groups of four, and leaves a row for the launch table; it writes none itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.gpu.kernels.cases import Bench, decode
from bench.gpu.kernels.clock import milliseconds
from bench.gpu.kernels.timings import Grid
from bench.gpu.report import SHORT
from bench.gpu.step import Row, Step, device_is_lost
from bench.gpu.sweep import candidates
from bench.report.figures import say
from quire_kernels.gpu.launch_table import Launch

RESERVE_S = 5.0
# block_n, warps, stages, registers, programs a multiprocessor
PROMISING = ((64, 4, 5, 168, 3), (64, 4, 5, 255, 2))
REGIME = "decode"


def shapes(grid: Grid, what: str) -> list[tuple[str, list[int]]]:
    """Name and lengths of the decode steps to time."""
    named = [(f"{len(steps)} x {steps[0]}" if len(set(steps)) == 1 else "mixed", steps) for steps in grid.decode]
    return named[1:5] if what == "candidates" else named[:1]


def tried(shipped: Launch, what: str, group: int, dry: bool) -> Iterator[tuple[str, Launch]]:
    """The shipped launch first, then the others."""
    yield "shipped", shipped
    if what == "candidates":
        for block_n, warps, stages, registers, per_sm in PROMISING:
            other = Launch(shipped.block_m, block_n, warps, stages, registers, per_sm)
            yield f"n{block_n} w{warps} s{stages} r{registers}", other
    else:
        for launch in candidates(REGIME, group)[: 2 if dry else None]:
            yield f"n{launch.block_n} w{launch.num_warps} s{launch.num_stages} r{launch.max_registers}", launch


def rows(step: Step) -> list[Row]:
    """Times of every launch on every shape, saved one by one; one that cannot be made says why."""
    grid = Grid(step.dry)
    bench = Bench(torch.device(step.device), grid.memory)
    shipped = bench.launches(grid.heads, bench.dtype)
    found: list[Row] = step.figures.setdefault("launches", [])
    for shape, lengths in shapes(grid, step.what):
        plan, base = decode(lengths), 0.0
        for name, launch in tried(shipped[REGIME], step.what, grid.heads.group, step.dry):
            if step.left < RESERVE_S:
                raise RuntimeError(f"no time left after {len(found)} launches")
            row: Row = {"regime": REGIME, "shape": shape, "launch": name, "note": ""}
            try:
                runs = bench.ours(grid.heads, plan, bench.dtype, launches={**shipped, REGIME: launch})
                if runs is None:
                    row["note"] = "does not fit the memory for inputs"
                else:
                    row["ms"], row["note"] = milliseconds(runs, bench.device)
                    base = base or row["ms"]
                    row["of_shipped"] = row["ms"] / base
            except Exception as error:  # a compiler's refusal has many types
                if device_is_lost(error):
                    raise
                row["note"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
            found.append(row)
            step.save()
            say(f"{step.what}: {row}")
    return found


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__, "candidates", "sweep")
    with torch.inference_mode():
        step.part("launches", lambda: rows(step))
    timed = [row for row in step.figures.get("launches", []) if "of_shipped" in row]
    if timed:
        best = min(timed, key=lambda row: row["of_shipped"])
        step.figures[SHORT] = f"best: {best['launch']} on {best['shape']}, {best['of_shipped']:.2f} of the shipped time"
    return step.end()


if __name__ == "__main__":
    raise SystemExit(main())
