"""The result of a GPU run for people: a summary to be read in a minute, and all figures as tables.

Only what is in the result is printed. A dry run says in its first line that nothing was measured.
"""

from __future__ import annotations

from typing import Any

from bench.gpu.schedule import CLAIMS, NAMES, exit_status
from bench.report.figures import table

Rows = list[dict[str, Any]]
SHORT = "in short"  # a part of figures: one line of what a step found
DRY = "**Dry run without a GPU: nothing here was measured, times are those of an interpreter.**"
COLUMNS = {
    "decode": ("batch", "keys", "dtype", "ours_ms", "sdpa_ms", "gb_per_s", "of_copy"),
    "shared": (
        "keys", "members", "group", "rule", "grouped_ms", "private_ms", "sdpa_ms", "speedup", "gb_per_s", "of_copy",
    ),
    "host": ("batch", "keys", "step_ms", "host_ms", "device_ms", "ungraphed_ms", "host_share"),
    "flashinfer decode": ("batch", "keys", "flashinfer_ms"),
    "flashinfer prefill": ("tokens", "flashinfer_ms"),
    "prefill": ("tokens", "ours_ms", "sdpa_ms", "tflop_per_s", "of_matmul", "of_sdpa"),
    "launches": ("regime", "shape", "launch", "ms", "of_shipped"),
}  # fmt: skip
COLUMNS["fp8"] = COLUMNS["decode"]


def summary(result: dict[str, Any]) -> str:
    """What holds, what does not, where it stopped, and where to read on."""
    steps = result["steps"]
    parts = ["# GPU run", *([DRY] if result["dry_run"] else []), _facts(result)]
    rows = [[claim.bit, claim.sentence, claim.state(steps), ", ".join(claim.shown_by)] for claim in CLAIMS]
    parts.append(table(rows, ["bit", "claim", "", "shown by"]))
    parts.append(f"Exit status {exit_status(steps, result['dry_run'])}: the sum of the bits that do not hold.")
    parts.append(table([_row(name, steps[name]) for name in _order(steps)], ["step", "state", "seconds", "in short"]))
    failed = [name for name in _order(steps) if steps[name]["state"] == "failed"]
    if failed:
        parts.append("What failed, and all that was said: " + ", ".join(f"`{name}/`" for name in failed) + ".")
    return "\n\n".join(parts) + "\n"


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    parts = [summary(result).rstrip()]
    for name in _order(result["steps"]):
        step = result["steps"][name]
        parts += [f"## {name}", *([_indented(step["reason"])] if step["state"] == "failed" else [])]
        parts += _figures(step["figures"])
    return "\n\n".join(parts) + "\n"


def _order(steps: dict[str, Any]) -> list[str]:
    return [name for name in ("wheels", *NAMES) if name in steps]


def _facts(result: dict[str, Any]) -> str:
    facts = {**(result["gpu"] or {}), **result["versions"], "machine": result["machine"]["cpu"]}
    line = f"`python bench/gpu/run.py`, {result['date']}. " + ", ".join(f"{k} {v}" for k, v in facts.items())
    return line + (f". Not installed: {', '.join(result['missing'])}" if result["missing"] else "")


def _row(name: str, step: dict[str, Any]) -> list[object]:
    short = step["reason"] if step["state"] in ("failed", "skipped", "not run") else step["figures"].get(SHORT, "")
    return [name, step["state"], step["seconds"], _line(short.strip().partition("\n")[0], 160)]


def _figures(figures: dict[str, Any]) -> list[str]:
    parts = [
        f"- {key}: {_line(value)}"
        for key, value in figures.items()
        if key not in ("failures", SHORT) and not (key in COLUMNS and isinstance(value, list))
    ]
    tables = [(key, rows) for key, rows in figures.items() if key in COLUMNS and isinstance(rows, list)]
    return ["\n".join(parts)] * bool(parts) + [_table(rows, COLUMNS[key]) for key, rows in tables]


def _table(rows: Rows, columns: tuple[str, ...]) -> str:
    """Rows with their notes (why a cell is empty) as a last column."""
    cells = [[row.get(column) for column in columns] + [_line(row.get("note", ""))] for row in rows]
    return table(cells, [*columns, "note"])


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _line(value: object, length: int = 600) -> str:
    """One line of Markdown that breaks no table."""
    return str(value).replace("\n", " / ").replace("|", "\\|")[:length]
