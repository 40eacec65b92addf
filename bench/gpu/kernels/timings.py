"""How fast the kernels are, against ceilings of the same process and against PyTorch on contiguous memory.

A table a process, so that one bad launch costs one table. Decode and shared prefixes are bound by memory: bytes that
must be read at least once, a second, over the rate of a device copy. Prefill is bound by arithmetic: FLOP a second over
the rate of a large bf16 matrix product. Shared prefixes are timed as a group and sequence by sequence, and what the
group rule would have chosen is noted; ``fit_groups.py`` fits the rule to these rows. ``host``: whole decode steps of a
small model, and what of them the host costs, with graphs and without. Rows that the limit did not reach say so.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.kernels.aims import insist
from bench.gpu.kernels.cases import BLOCK, Bench, Heads, decode, prefill, shared
from bench.gpu.kernels.clock import copy_ceiling, matmul_ceiling, milliseconds
from bench.gpu.kernels.host_share import DecodeSteps
from bench.gpu.processes.throughput import DRY, SIZES
from bench.gpu.report import SHORT
from bench.gpu.step import Row, Step, device_is_lost
from bench.report.figures import say

OWN = 64  # private tokens behind a shared prefix
RESERVE_S = 5.0
FP8 = torch.float8_e4m3fn
MIXED = "200-8000"  # tokens of the sequences of one decode step


class Grid:
    """What is timed; the dry run's is tiny."""

    def __init__(self, dry: bool) -> None:
        self.memory = (8 << 20) if dry else min(36 << 30, int(0.6 * torch.cuda.mem_get_info()[0]))
        self.matmul = 64 if dry else 8192
        self.heads = Heads(4, 1, 16) if dry else Heads(32, 8, 128)
        self.groups = (1, 4) if dry else (1, 4, 8)
        draw = random.Random(1)
        mixed = [draw.randrange(20, 60) if dry else draw.randrange(200, 8000) for _ in range(3 if dry else 64)]
        even = [[48] * n for n in (1, 2)] if dry else [[4096] * n for n in (8, 40, 64, 128)]
        more = [] if dry else [[512] * 32, [4096], [32768] * 8]
        self.decode: list[list[int]] = [*even, mixed, *more]
        prefixes, members = ((64,), (3,)) if dry else ((2048, 8192, 512, 32768), (32, 64, 4, 256))
        self.shared = list(product(prefixes, members, self.groups))
        self.prefill = (40,) if dry else (4096, 512, 16384)
        self.steps = (1, 2) if dry else (1, 8, 32, 128)
        self.step_keys, self.model = (20, DRY) if dry else (512, SIZES)


class Timings:
    """The rows of one table."""

    def __init__(self, step: Step) -> None:
        self.step, self.grid = step, Grid(step.dry)
        self.bench = Bench(torch.device(step.device), self.grid.memory)

    def ceilings(self) -> dict[str, float]:
        """Copy and matrix product."""
        copy = copy_ceiling(self.bench.memory[: self.bench.memory.numel() // 4])
        self.copy, self.matmul = copy, matmul_ceiling(self.bench.device, self.grid.matmul)
        return {"copy_gb_per_s": self.copy / 1e9, "matmul_tflop_per_s": self.matmul / 1e12}

    def rows(self, name: str, shapes: Sequence[Any], row_of: Callable[[Any], Row]) -> list[Row]:
        """Rows of one table, saved one by one; a row that fails says why, and ends the process with the device."""
        rows: list[Row] = []
        for shape in shapes:
            if self.step.left < RESERVE_S:
                raise RuntimeError(f"no time left: {len(rows)} of {len(shapes)} rows of {name}")
            try:
                rows.append(row_of(shape))
            except (RuntimeError, ValueError) as error:
                if device_is_lost(error):
                    raise
                rows.append({"note": f"{str(shape)[:60]}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"})
                self.step.fail(f"{name} {str(shape)[:60]}", error)
            self.step.figures[name] = rows
            self.step.save()
            say(f"{name}: {rows[-1]}")
        return rows

    def decode_row(self, lengths: list[int], kv: torch.dtype) -> Row:
        """Private decodes."""
        batch, heads = len(lengths), self.grid.heads
        even = len(set(lengths)) == 1
        row: Row = {"batch": batch, "keys": lengths[0] if even else MIXED, "dtype": str(kv).removeprefix("torch.")}
        row["note"] = ""
        self._time(row, "ours_ms", self.bench.ours(heads, decode(lengths), kv))
        if kv == self.bench.dtype and even:
            self._time(row, "sdpa_ms", self.bench.sdpa(heads, batch, 1, lengths[0]))
        self._of_copy(row, "ours_ms", 2 * sum(lengths) * heads.kv_heads * heads.head_dim * kv.itemsize)
        return row

    def shared_row(self, shape: tuple[int, int, int]) -> Row:
        """Decodes over a shared prefix, as a group and not."""
        prefix, members, group = shape
        kv, whole = self.bench.dtype, self.grid.heads
        heads = Heads(whole.heads, whole.heads // group, whole.head_dim)
        rule = self.bench.rule(heads, kv)
        count = np.array([members])
        pays = bool(rule.gain(count, count, np.array([prefix]))[0] > 0)
        row: Row = {name: getattr(rule, name) for name in ("kv_heads", "head_dim", "itemsize", "block_m", "places")}
        row |= {"keys": prefix, "members": members, "group": group, "note": ""}
        row["rule"] = "group" if pays else "private"
        for name, grouped in (("grouped_ms", True), ("private_ms", False)):
            self._time(row, name, self.bench.ours(heads, shared(members, prefix, OWN, grouped), kv, grouped))
        self._time(row, "sdpa_ms", self.bench.sdpa(heads, members, 1, prefix + OWN))
        if "grouped_ms" in row and "private_ms" in row:
            row["speedup"] = row["private_ms"] / row["grouped_ms"]
            row["chosen_speedup"] = row["speedup"] if pays else 1.0
        tokens = prefix + members * -(-OWN // BLOCK) * BLOCK
        self._of_copy(row, "grouped_ms", 2 * tokens * heads.kv_heads * heads.head_dim * kv.itemsize)
        return row

    def prefill_row(self, tokens: int) -> Row:
        """A whole prompt."""
        heads = self.grid.heads
        row: Row = {"tokens": tokens, "note": ""}
        self._time(row, "ours_ms", self.bench.ours(heads, prefill(tokens), self.bench.dtype))
        self._time(row, "sdpa_ms", self.bench.sdpa(heads, 1, tokens, tokens))
        if "ours_ms" in row:
            rate = 4 * heads.heads * heads.head_dim * tokens * (tokens + 1) / 2 / row["ours_ms"] * 1000
            row |= {"tflop_per_s": rate / 1e12, "of_matmul": rate / self.matmul}
        if "ours_ms" in row and "sdpa_ms" in row:
            row["of_sdpa"] = row["sdpa_ms"] / row["ours_ms"]
        return row

    def table(self, name: str) -> list[Row]:
        """All rows of a table."""
        grid = self.grid
        if name in ("decode", "fp8"):
            kv = FP8 if name == "fp8" else self.bench.dtype
            return self.rows(name, grid.decode, lambda lengths: self.decode_row(lengths, kv))
        if name == "prefill":
            return self.rows(name, grid.prefill, self.prefill_row)
        if name == "shared":
            return self.rows(name, grid.shared, self.shared_row)
        with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch:
            steps = DecodeSteps(Path(scratch), self.bench.device, grid.model, grid.steps, grid.step_keys)
            return self.rows(name, grid.steps, steps.row)

    def _time(self, row: Row, name: str, runs: list[Callable[[], Any]] | None) -> None:
        if runs is None:
            row["note"] += f"{name}: does not fit the memory for inputs. "
            return
        row[name], how = milliseconds(runs, self.bench.device)
        if how not in ("graph", "interpreter"):
            row["note"] += f"{name}: {how}. "

    def _of_copy(self, row: Row, name: str, read: int) -> None:
        """A copy's rate counts bytes read and written; a reader that is as fast moves as many bytes."""
        if name in row:
            row |= {"gb_per_s": read / row[name] / 1e6, "of_copy": read / row[name] * 1000 / self.copy}


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__, "decode", "fp8", "prefill", "host", "shared")
    with torch.inference_mode():
        timings = Timings(step)
        step.part("ceilings", timings.ceilings)
        if "ceilings" in step.figures:
            step.part(step.what, lambda: timings.table(step.what))
        rows = step.figures.get(step.what, [])
        step.figures[SHORT] = f"{sum(len(row) > 1 for row in rows)} rows"
        if not step.dry and step.what != "host":
            step.part("aims", lambda: insist(step, rows))
    return step.end()


if __name__ == "__main__":
    raise SystemExit(main())
