"""Fit the group rule to measured times and write its row of this architecture into the kernels' group table.

Input is a result of ``bench/gpu/run.py``, whose timings hold, for each shape of shared prefix, the times of the same
step attended to as a group and sequence by sequence. Of a grid of (margin, fixed_bytes) the pair is taken under which
the rule's choices cost least time in all, among those that never choose what is more than 5 % slower than not grouping;
of equals, the one that groups least. If none keeps that bound, nothing is written.

Usage: python bench/gpu/fit_groups.py bench/results/gpu.json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from quire_kernels.group_rule import DEFAULT_WEIGHTS, GroupRule, Weights

TABLE = Path(__file__).resolve().parents[2] / "kernels" / "quire_kernels" / "group_table.json"
MARGINS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
FIXED = tuple(mib << 20 for mib in (0, 1, 2, 4, 8, 16, 32, 64))
MOST_LOST = 1.05


@dataclass(frozen=True, slots=True)
class Point:
    """One measured step: ``members`` decodes over ``keys`` shared keys, in milliseconds either way."""

    rule: GroupRule
    members: int
    keys: int
    grouped_ms: float
    private_ms: float

    def chosen_ms(self, weights: Weights) -> float:
        """Its time under the rule with these weights."""
        count = np.array([self.members])
        pays = replace(self.rule, weights=weights).gain(count, count, np.array([self.keys]))[0] > 0
        return self.grouped_ms if pays else self.private_ms


def points(result: dict[str, Any]) -> list[Point]:
    """The shared-prefix steps of a result of ``run.py`` in which both ways were timed."""
    found = []
    for row in result["steps"]["shared"]["figures"]["shared"]:
        if "grouped_ms" in row and "private_ms" in row:
            shape = ("kv_heads", "group", "head_dim", "itemsize", "block_m", "places")
            rule = GroupRule(**{name: row[name] for name in shape}, weights=DEFAULT_WEIGHTS)
            found.append(Point(rule, row["members"], row["keys"], row["grouped_ms"], row["private_ms"]))
    return found


def fit(measured: list[Point]) -> Weights | None:
    """The best weights, None if every pair breaks the bound."""
    best: tuple[float, Weights] | None = None
    for margin, fixed in sorted(product(MARGINS, FIXED), reverse=True):
        weights = Weights(margin, fixed)
        times = [(point.chosen_ms(weights), point.private_ms) for point in measured]
        if any(chosen > MOST_LOST * private for chosen, private in times):
            continue
        total = sum(chosen for chosen, _ in times)
        if best is None or total < best[0]:
            best = (total, weights)
    return best[1] if best else None


def write_group_row(arch: str, weights: Weights, source: str, table: Path = TABLE) -> None:
    """Replace the architecture's row."""
    content = json.loads(table.read_text(encoding="utf-8"))
    row = {"arch": arch, "margin": weights.margin, "fixed_bytes": weights.fixed_bytes, "source": source}
    rows = sorted([r for r in content["rows"] if r["arch"] != arch] + [row], key=lambda r: str(r["arch"]))
    table.write_text(json.dumps({**content, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Fit and write; 1 if there is nothing to fit or nothing fits."""
    parser = argparse.ArgumentParser(description="fit the group rule to a result of bench/gpu/run.py")
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    result = json.loads(options.result.read_text(encoding="utf-8"))
    gpu = result.get("gpu")
    if not gpu:
        print("fit_groups: the result was not measured on a GPU: nothing to fit", file=sys.stderr)
        return 1
    measured = points(result)
    weights = fit(measured) if measured else None
    if weights is None:
        print(f"fit_groups: {len(measured)} steps, and no weights keep within {MOST_LOST}", file=sys.stderr)
        return 1
    write_group_row(gpu["arch"], weights, f"{len(measured)} steps on {gpu['name']}, {result['date']}")
    print(f"fit_groups: {weights} for {gpu['arch']} from {len(measured)} steps, written to {TABLE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
