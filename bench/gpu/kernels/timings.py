"""Phase 3: how fast the kernels are, against ceilings of the same run and against PyTorch on contiguous memory.

Decode and shared prefixes are bound by memory: bytes that must be read at least once, a second, over the rate of a
device copy. Prefill is bound by arithmetic: FLOP a second over the rate of a large bf16 matrix product. Shared prefixes
are timed as a group and sequence by sequence, and what the group rule would have chosen is noted; ``fit_groups.py``
fits the rule to these rows. Before those, whole decode steps of a small model: what the host costs, with graphs and
without (``steps``). Rows that the budget did not reach say so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.kernels.cases import BLOCK, Bench, Heads, decode, prefill, shared
from bench.gpu.kernels.clock import copy_ceiling, matmul_ceiling, milliseconds
from bench.gpu.kernels.steps import Steps
from bench.gpu.phase import Phase, Row
from bench.gpu.processes.throughput import DRY, SIZES
from bench.report.figures import say

OWN = 64  # private tokens behind a shared prefix
RESERVE_S = 10.0
FP8 = torch.float8_e4m3fn


class Grid:
    """What is timed; the dry run's is tiny."""

    def __init__(self, dry: bool) -> None:
        self.memory = (8 << 20) if dry else min(36 << 30, int(0.6 * torch.cuda.mem_get_info()[0]))
        self.matmul = 64 if dry else 8192
        self.heads = Heads(4, 1, 16) if dry else Heads(32, 8, 128)
        self.groups = (1, 4) if dry else (1, 4, 8)
        self.decode = list(product((1, 2), (48,)) if dry else product((1, 8, 32, 128), (512, 4096, 32768)))
        prefixes, members = ((64,), (3,)) if dry else ((512, 2048, 8192, 32768), (4, 16, 64, 256))
        self.shared = list(product(prefixes, members, self.groups))
        self.prefill = (40,) if dry else (512, 4096, 16384)
        self.steps = (1, 2) if dry else (1, 8, 32, 128)
        self.step_keys, self.model = (20, DRY) if dry else (512, SIZES)


class Timings:
    """All rows of the phase."""

    def __init__(self, phase: Phase) -> None:
        self.phase, self.grid = phase, Grid(phase.dry)
        self.bench = Bench(torch.device(phase.device), self.grid.memory)

    def ceilings(self) -> dict[str, float]:
        """Copy and matrix product."""
        copy = copy_ceiling(self.bench.memory[: self.bench.memory.numel() // 4])
        self.copy, self.matmul = copy, matmul_ceiling(self.bench.device, self.grid.matmul)
        return {"copy_gb_per_s": self.copy / 1e9, "matmul_tflop_per_s": self.matmul / 1e12}

    def rows(self, name: str, shapes: list[Any], row_of: Callable[[Any], Row]) -> list[Row]:
        """Rows of one table, saved one by one; a row that fails says why."""
        rows: list[Row] = []
        for shape in shapes:
            if self.phase.left < RESERVE_S:
                raise RuntimeError(f"no time left: {len(rows)} of {len(shapes)} rows of {name}")
            try:
                rows.append(row_of(shape))
            except (RuntimeError, ValueError) as exc:
                rows.append({"shape": str(shape), "note": f"{type(exc).__name__}: {str(exc).splitlines()[0][:200]}"})
                self.phase.failures[f"{name} {shape}"] = str(exc)[:300]
            self.phase.figures[name] = rows
            self.phase.save()
            say(f"{name}: {rows[-1]}")
        return rows

    def decode_row(self, shape: tuple[tuple[int, int], torch.dtype]) -> Row:
        """Private decodes."""
        (batch, keys), kv = shape
        row: Row = {"batch": batch, "keys": keys, "dtype": str(kv).removeprefix("torch."), "note": ""}
        self._time(row, "ours_ms", self.bench.ours(self.grid.heads, decode(batch, keys), kv, False))
        if kv == self.bench.dtype:
            self._time(row, "sdpa_ms", self.bench.sdpa(self.grid.heads, batch, 1, keys))
        heads = self.grid.heads
        self._of_copy(row, "ours_ms", 2 * batch * keys * heads.kv_heads * heads.head_dim * kv.itemsize)
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
        self._time(row, "ours_ms", self.bench.ours(heads, prefill(tokens), self.bench.dtype, False))
        self._time(row, "sdpa_ms", self.bench.sdpa(heads, 1, tokens, tokens))
        if "ours_ms" in row:
            rate = 4 * heads.heads * heads.head_dim * tokens * (tokens + 1) / 2 / row["ours_ms"] * 1000
            row |= {"tflop_per_s": rate / 1e12, "of_matmul": rate / self.matmul}
        if "ours_ms" in row and "sdpa_ms" in row:
            row["of_sdpa"] = row["sdpa_ms"] / row["ours_ms"]
        return row

    def steps(self) -> list[Row]:
        """Whole decode steps."""
        grid = self.grid
        with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch:
            steps = Steps(Path(scratch), self.bench.device, grid.model, grid.steps, grid.step_keys)
            return self.rows("steps", list(grid.steps), steps.row)

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
    """Run the phase."""
    phase = Phase.from_arguments(__doc__)
    with torch.inference_mode():
        timings = Timings(phase)
        grid, kinds = timings.grid, (timings.bench.dtype, FP8)
        phase.part("ceilings", timings.ceilings)
        if "ceilings" in phase.figures:
            small = [(shape, kind) for shape, kind in product(grid.decode, kinds)]
            phase.part("decode", lambda: timings.rows("decode", small, timings.decode_row))
            phase.part("prefill", lambda: timings.rows("prefill", list(grid.prefill), timings.prefill_row))
            phase.part("steps", timings.steps)
            phase.part("shared", lambda: timings.rows("shared", grid.shared, timings.shared_row))
    return phase.end()


if __name__ == "__main__":
    raise SystemExit(main())
