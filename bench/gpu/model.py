"""What the attention kernels should reach on GPUs that we do not have: an estimate from what can be known without one.

For each chip, regime and shape: the bytes and floating-point operations of a launch, how the split rule levels them
over the chip's places, and how long a program takes for one step of its hot loop. A step loads a tile of keys and
values and multiplies it. With one buffer these come one after the other, with several the longer one counts; programs
of one multiprocessor overlap in any case, up to the instructions that it issues and the bytes that the memory gives.
Instructions of the hot loop, registers, buffers and shared memory are those of the compiled kernels
(``scripts/cubins.py``). The result is a share of the chip's memory rate (decode) or of its tensor rate (prefill).

``LATENCY_S``, ``CYCLES`` and the two shares that anything reaches are guesses, to be set right by the first measurement
(``bench/gpu/run.py``). Until then the table says which launch should be better, and roughly by how much.

Usage: python bench/gpu/model.py [--save gpu-model]
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from heapq import heapreplace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.report.figures import Report, table  # noqa: E402 - found in the checkout
from quire_kernels.gpu.launch_table import Launch  # noqa: E402
from quire_kernels.gpu.split_rule import IntArray, split_lengths  # noqa: E402

LATENCY_S = 1.0e-6  # from the issue of a tile's loads to its last byte, under load
CYCLES = 4.0  # a warp's per instruction of its own, where nothing else runs on its scheduler
MOST_OF_MEMORY = 0.92  # of the data sheet's memory rate, by a plain copy
MOST_OF_TENSORS = 0.8  # of the data sheet's tensor rate, by a large matrix product
KEY_HEADS, GROUP, WIDTH = 8, 4, 128
SCHEDULERS = 4  # of a multiprocessor
FACTS = ("registers", "spilled", "shared", "per_sm", "kv_buffers", "byte_reads", "loop")  # of a compiled kernel


@dataclass(frozen=True, slots=True)
class Chip:
    """A GPU by its data sheet: multiprocessors, memory rate, dense bf16 tensor rate, clock."""

    name: str
    arch: str
    sms: int
    bytes_s: float
    flop_s: float
    hertz: float


CHIPS = (
    Chip("A100 80GB", "sm_80", 108, 2.04e12, 312e12, 1.41e9),
    Chip("L40S", "sm_89", 142, 0.864e12, 362e12, 2.52e9),
    Chip("H100 SXM", "sm_90", 132, 3.35e12, 989e12, 1.83e9),
    Chip("H200", "sm_90", 132, 4.80e12, 989e12, 1.83e9),
    Chip("B200", "sm_100", 148, 8.0e12, 2250e12, 1.85e9),
)

# Launches before there were rows chosen by what they compile to; the split rule then cut for two programs everywhere.
FORMER = {
    "decode": Launch(16, 64, 4, 2, 255, per_sm=2),
    "prefill": Launch(64, 64, 8, 2, 255, per_sm=2),
}
FORMER_PREFILL_90 = Launch(128, 64, 8, 2, None, per_sm=2)


def decode_steps() -> dict[str, IntArray]:
    """Tokens of each sequence of a decode step."""
    random = np.random.default_rng(0)
    return {
        "1 x 4,096": np.full(1, 4096),
        "8 x 4,096": np.full(8, 4096),
        "40 x 4,096": np.full(40, 4096),
        "64 x 4,096": np.full(64, 4096),
        "128 x 4,096": np.full(128, 4096),
        "64 of 200 to 8,000": random.integers(200, 8001, 64),
        "256 of 200 to 8,000": random.integers(200, 8001, 256),
    }


def former_split(kv_len: IntArray, places: int) -> IntArray:
    """The split rule as it was: each tile to the nearest number of shares, none below 256 keys."""
    share = max(float(kv_len.sum()) * KEY_HEADS / places, 256.0)
    runs = np.maximum(np.floor(kv_len / share + 0.5).astype(np.int64), 1)
    return np.asarray(np.ceil(np.ceil(kv_len / runs) / 64).astype(np.int64) * 64)


def balance(kv_len: IntArray, length: IntArray, places: int, heads_first: bool) -> float:
    """Share of the time until the last place ends in which places work, if each takes the next program."""
    runs = [min(int(cut), int(n) - first) for n, cut in zip(kv_len, length, strict=True) for first in range(0, n, cut)]
    runs.sort(reverse=True)
    order = [run for run in runs for _ in range(KEY_HEADS)] if heads_first else runs * KEY_HEADS
    free = [0] * places
    for run in order:
        heapreplace(free, free[0] + run)
    return float(kv_len.sum() * KEY_HEADS / places / max(free))


def step_rate(chip: Chip, launch: Launch, built: dict[str, Any], per_sm: int, multiply_s: float) -> float:
    """Steps of the hot loop that one multiprocessor ends in a second, if memory gives all it asks for.

    Args:
        built: what the launch compiled to.
        per_sm: programs that it has at a time.
        multiply_s: of one step on all tensor cores of the multiprocessor.
    """
    alone_s = built["loop"] * CYCLES / chip.hertz + multiply_s
    # With two buffers and a wait for all copies, wgmma reads the one while the other is empty.
    ahead = built["kv_buffers"] - 1 if built["under_way"] or built["kv_buffers"] > 2 else 0
    one_s = max(alone_s, LATENCY_S / ahead) if ahead else alone_s + LATENCY_S
    issue_s = built["loop"] * launch.num_warps / SCHEDULERS / chip.hertz
    return float(min(per_sm / one_s, 1 / max(issue_s, multiply_s)))


def decode_row(
    chip: Chip, name: str, kv_len: IntArray, launch: Launch, built: dict[str, Any], now: bool
) -> dict[str, Any]:
    """A decode step: bound by memory. ``now``: by today's split rule and order, or as it was."""
    itemsize = 1 if built["dtype"] == "float8_e4m3fn" else 2
    cut = split_lengths(kv_len, KEY_HEADS, launch.per_sm * chip.sms) if now else former_split(kv_len, 2 * chip.sms)
    runs = int((-(-kv_len // cut)).sum())
    per_sm = min(built["per_sm"], -(-runs * KEY_HEADS // chip.sms))  # few programs are spread over all multiprocessors
    level = balance(kv_len, cut, per_sm * chip.sms, now)
    key_bytes = 2 * WIDTH * itemsize
    multiply_s = 4 * launch.block_m * built["BLOCK_N"] * WIDTH / (chip.flop_s / chip.sms)
    wanted = step_rate(chip, launch, built, per_sm, multiply_s) * built["BLOCK_N"] * key_bytes * chip.sms
    share = min(wanted / chip.bytes_s, MOST_OF_MEMORY)
    partials = 0 if runs == len(kv_len) else runs * KEY_HEADS * GROUP * (WIDTH + 1) * 4 * 2
    read = int(kv_len.sum()) * KEY_HEADS * key_bytes
    return {
        "shape": name,
        "megabytes": round(read / 1e6, 1),
        "gigaflop": round(4e-9 * int(kv_len.sum()) * KEY_HEADS * GROUP * WIDTH, 2),
        "balance": round(level, 2),
        "share": round(share * level * read / (read + partials), 2),
    }


def prefill_row(chip: Chip, tokens: int, launch: Launch, built: dict[str, Any]) -> dict[str, Any]:
    """A prompt: bound by arithmetic; a tile of rows sees the keys up to its last row."""
    rows = launch.block_m // GROUP
    kv_len = np.minimum(np.arange(rows, tokens + rows, rows), tokens)
    level = balance(kv_len, kv_len, built["per_sm"] * chip.sms, True)
    flop = 4 * launch.block_m * built["BLOCK_N"] * WIDTH
    wanted = step_rate(chip, launch, built, built["per_sm"], flop / (chip.flop_s / chip.sms)) * flop * chip.sms
    read = int(kv_len.sum()) * KEY_HEADS * 2 * WIDTH * 2
    return {
        "shape": f"prompt of {tokens:,}",
        "megabytes": round(read / 1e6, 1),
        "gigaflop": round(2e-9 * tokens * (tokens + 1) * KEY_HEADS * GROUP * WIDTH, 2),
        "balance": round(level, 2),
        "share": round(min(MOST_OF_TENSORS, wanted / chip.flop_s) * level, 2),
    }


def tables_of(rows: list[dict[str, Any]]) -> Report:
    """A table for each kernel: before and after, chip by chip."""
    found = Report(
        bench="gpu-model",
        settings={
            "KV heads": KEY_HEADS,
            "query heads per KV head": GROUP,
            "head_dim": WIDTH,
            "latency_us": LATENCY_S * 1e6,
            "cycles an instruction": CYCLES,
            "most of memory": MOST_OF_MEMORY,
            "most of tensors": MOST_OF_TENSORS,
        },
        figures={"rows": rows},
        command="python bench/gpu/model.py",
        notes=[
            "An estimate: no rate was measured. Registers, buffers, programs and loops are of compiled kernels.",
            "before: launches of two stages, keys cut to the nearest share for two programs a multiprocessor.",
            "after: rows of the launch table, and today's split rule. Both are today's kernels: once, e4m3 was read by "
            "single bytes of shared memory (128 in a step of 829 instructions, 247 registers) and stood lower still.",
            "share: of the data sheet's memory rate (decode) or dense bf16 tensor rate (prefill), balance included.",
        ],
    )
    facts = ("tile", *FACTS)
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        mine = [row for row in rows if row["kernel"] == kernel]
        compiled = {(r["chip"], r["when"]): [r["chip"], r["when"], *(r[name] for name in facts)] for r in mine}
        found.tables.append((f"{kernel}: compiled", table(list(compiled.values()), ("chip", "when", *facts))))
        pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in mine:
            pairs.setdefault((row["chip"], row["shape"]), []).append(row)
        lines = [
            [*key, was["megabytes"], was["gigaflop"], was["balance"], now["balance"], was["share"], now["share"]]
            for key, (was, now) in pairs.items()
        ]
        header = ("chip", "shape", "MB", "GFLOP", "balance before", "after", "share before", "after ")
        found.tables.append((f"{kernel}: estimated", table(lines, header)))
    return found


def compiled_cases(cases: list[tuple[Chip, str, str]]) -> list[dict[str, tuple[Launch, dict[str, Any]]]]:
    """For each case its launch before and after, and what that compiles to."""
    sys.path.insert(0, str(ROOT / "scripts"))
    os.environ.pop("TRITON_INTERPRET", None)
    cubins = import_module("cubins")  # here: it sets Triton up for compiling
    cubins.CACHE.mkdir(exist_ok=True)
    instances = []
    for chip, regime, dtype in cases:
        former = FORMER_PREFILL_90 if regime == "prefill" and chip.arch == "sm_90" else FORMER[regime]
        instances.append(
            {"before": cubins.Instance(regime, dtype, row=former), "after": cubins.Instance(regime, dtype)}
        )
    pairs = zip(cases, instances, strict=True)
    tasks = list(dict.fromkeys((chip.arch, instance) for (chip, *_), both in pairs for instance in both.values()))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        built = dict(zip(tasks, pool.map(cubins.compile_one, tasks), strict=True))
    return [
        {when: (instance.launch(chip.arch), built[chip.arch, instance]) for when, instance in both.items()}
        for (chip, *_), both in zip(cases, instances, strict=True)
    ]


def main() -> int:
    """Compile what is not known yet, print the tables, and save them where asked."""
    parser = argparse.ArgumentParser(description="estimate what the attention kernels reach on each chip")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json and NAME.md")
    options = parser.parse_args()
    kinds = [("decode", "bfloat16"), ("decode", "float8_e4m3fn"), ("prefill", "bfloat16")]
    cases = [(c, r, d) for c in CHIPS for r, d in kinds if not (d.startswith("float8") and c.arch == "sm_80")]
    rows = []
    for (chip, regime, dtype), both in zip(cases, compiled_cases(cases), strict=True):
        for when, (launch, built) in both.items():
            kernel = {name: built[name] for name in FACTS} | {"tile": f"{launch.block_m}x{built['BLOCK_N']}"}
            if regime == "prefill":
                numbers = [prefill_row(chip, tokens, launch, built) for tokens in (4096, 16384)]
            else:
                numbers = [decode_row(chip, n, k, launch, built, when == "after") for n, k in decode_steps().items()]
            rows += [{"chip": chip.name, "kernel": f"{regime} {dtype}", "when": when, **kernel, **r} for r in numbers]
    found = tables_of(rows)
    print(found.markdown())
    found.write(options.save)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
