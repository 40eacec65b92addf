"""What the kernels aim at, and whether a table of timings reaches it: judged by its worst row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.gpu.report import SHORT
from bench.gpu.step import Row, Step


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound on a figure of a table, for the rows of which ``where`` is true."""

    table: str
    what: str
    figure: str
    least: float
    where: Callable[[Row], bool] = lambda _: True


AIMS = (
    Aim("decode", "share of the copy ceiling", "of_copy", 0.85, lambda r: r["batch"] >= 32 and r["keys"] == 4096),
    Aim("decode", "share of the copy ceiling, mixed lengths", "of_copy", 0.6, lambda r: isinstance(r["keys"], str)),
    Aim("fp8", "share of the copy ceiling", "of_copy", 0.7, lambda r: r["batch"] >= 32 and r["keys"] == 4096),
    Aim("prefill", "share of contiguous SDPA's rate", "of_sdpa", 0.7),
    Aim(
        "shared",
        "speed-up by groups, prefix >= 2k, members >= 32, GQA 4",
        "speedup",
        2.0,
        lambda r: r["group"] == 4 and r["keys"] >= 2048 and r["members"] >= 32,
    ),
    Aim("shared", "as the group rule chooses: against never grouping", "chosen_speedup", 0.95),
)


def insist(step: Step, rows: list[Row]) -> list[str]:
    """The aims of a table and what was reached. Raises RuntimeError if one was missed or nothing shows it."""
    lines, missed = [], 0
    for aim in AIMS:
        if aim.table == step.what:
            values = [row[aim.figure] for row in rows if aim.figure in row and aim.where(row)]
            reached = bool(values) and min(values) >= aim.least
            missed += not reached
            worst = f"{min(values):.2f}" if values else "nothing"
            lines.append(f"{aim.what}: {worst} of {aim.least}, {'reached' if reached else 'missed'}")
    step.figures[SHORT] = "; ".join(lines)
    if missed:
        raise RuntimeError("; ".join(lines))
    return lines
