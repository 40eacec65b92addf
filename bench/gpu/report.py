"""The result of a GPU run as Markdown: what passed, what failed and why, and the figures as tables.

Only what is in the result is printed. A dry run says in its first line that nothing was measured.
"""

from __future__ import annotations

from typing import Any

from bench.report.figures import table

Rows = list[dict[str, Any]]
COLUMNS = {
    "decode": ("batch", "keys", "dtype", "ours_ms", "sdpa_ms", "gb_per_s", "of_copy"),
    "shared": (
        "keys", "members", "group", "rule", "grouped_ms", "private_ms", "sdpa_ms", "speedup", "gb_per_s", "of_copy",
    ),
    "steps": ("batch", "keys", "step_ms", "host_ms", "device_ms", "ungraphed_ms", "host_share"),
    "flashinfer decode": ("batch", "keys", "flashinfer_ms"),
    "flashinfer prefill": ("tokens", "flashinfer_ms"),
    "prefill": ("tokens", "ours_ms", "sdpa_ms", "tflop_per_s", "of_matmul", "of_sdpa"),
}  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    parts = ["# GPU run"]
    if result["dry_run"]:
        parts.append("**Dry run without a GPU: nothing here was measured, times are those of an interpreter.**")
    facts = {**(result["gpu"] or {}), **result["versions"], "machine": result["machine"]["cpu"]}
    parts.append(f"`python bench/gpu/run.py`, {result['date']}. " + ", ".join(f"{k} {v}" for k, v in facts.items()))
    if result["missing"]:
        parts.append(f"Not installed: {', '.join(result['missing'])}.")
    phases = result["phases"]
    rows = [[name, phase["state"], phase["seconds"], _line(phase["reason"])] for name, phase in phases.items()]
    parts.append(table(rows, ["phase", "state", "seconds", "reason"]))
    for name, phase in phases.items():
        parts += [f"## {name}", *_phase(phase["figures"])]
        if name == "timings" and not result["dry_run"]:
            parts += _targets(phase["figures"])
    return "\n\n".join(parts) + "\n"


def _phase(figures: dict[str, Any]) -> list[str]:
    parts = [f"- {part}: FAILED: {_line(reason)}" for part, reason in figures.get("failures", {}).items()]
    tables = [(key, rows) for key, rows in figures.items() if key in COLUMNS and isinstance(rows, list)]
    for key, value in figures.items():
        if key != "failures" and key not in COLUMNS:
            parts.append(f"- {key}: {_line(value)}")
    parts = ["\n".join(parts)] if parts else []
    for key, rows in tables:
        parts += [f"### {key}", _table(rows, COLUMNS[key])]
    return parts


def _table(rows: Rows, columns: tuple[str, ...]) -> str:
    """Rows with their notes (why a cell is empty) as a last column."""
    cells = [[row.get(column) for column in columns] + [_line(row.get("note", ""))] for row in rows]
    return table(cells, [*columns, "note"])


def _targets(figures: dict[str, Any]) -> list[str]:
    """The aims of the kernels beside what was reached; nothing is said where a figure is missing."""
    decode = [r for r in figures.get("decode", []) if "of_copy" in r]
    shared = [r for r in figures.get("shared", []) if "speedup" in r]
    prefill = [r["of_sdpa"] for r in figures.get("prefill", []) if "of_sdpa" in r]
    large = [r for r in decode if r["dtype"] == "bfloat16" and r["batch"] >= 32 and r["keys"] >= 4096]
    far = [r for r in shared if r["group"] == 4 and r["keys"] >= 2048 and r["members"] >= 32]
    narrow = {(r["batch"], r["keys"]): r["ours_ms"] for r in decode if r["dtype"] == "float8_e4m3fn"}
    fp8 = [r["ours_ms"] / narrow[r["batch"], r["keys"]] for r in large if (r["batch"], r["keys"]) in narrow]
    rows: list[list[object]] = []
    for what, aim, values in (
        ("decode, batch >= 32, keys >= 4k: share of the copy ceiling, least", 0.85, [r["of_copy"] for r in large]),
        ("grouped, prefix >= 2k, members >= 32, GQA 4: speed-up, least", 2.0, [r["speedup"] for r in far]),
        ("as the group rule chooses: against never grouping, least", 0.95, [r["chosen_speedup"] for r in shared]),
        ("prefill: share of contiguous SDPA's rate, least", 0.7, prefill),
        ("fp8 keys and values: decode speed-up over bf16, least", 1.6, fp8),
    ):
        if values:
            rows.append([what, aim, min(values), "reached" if min(values) >= aim else "missed"])
    return ["### Aims", table(rows, ["what", "aim", "measured", ""])] if rows else []


def _line(value: object) -> str:
    """One line of Markdown that breaks no table."""
    return str(value).replace("\n", " / ").replace("|", "\\|")[:600]
