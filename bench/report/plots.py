"""Plots of results, where matplotlib is installed (extra ``bench``); without it only tables and JSON are written."""

from __future__ import annotations

import importlib.util
from typing import Any

from . import figures
from .figures import say

Curves = dict[str, list[tuple[float, float]]]


def lines(name: str, title: str, axes: tuple[str, str], curves: Curves, log: bool = False) -> bool:
    """Write ``results/NAME.png`` with one line a curve; returns whether there is a plotting library."""
    pyplot = _pyplot()
    if pyplot is None:
        return False
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for label, points in curves.items():
        axis.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
    if log:
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.set_xlabel(axes[0])
    _write(pyplot, figure, axis, name, title, axes[1])
    return True


def bars(name: str, title: str, unit: str, groups: dict[str, dict[str, float]]) -> bool:
    """Write ``results/NAME.png`` with a group of bars for each entry, one bar a label; a group may lack a label."""
    pyplot = _pyplot()
    if pyplot is None:
        return False
    labels = list(dict.fromkeys(label for values in groups.values() for label in values))
    figure, axis = pyplot.subplots(figsize=(1.5 + 1.6 * len(groups), 4.5))
    width = 0.8 / max(1, len(labels))
    for i, label in enumerate(labels):
        found = [(place, values[label]) for place, values in enumerate(groups.values()) if label in values]
        axis.bar([place + i * width for place, _ in found], [value for _, value in found], width, label=label)
    axis.set_xticks([place + 0.4 - width / 2 for place in range(len(groups))], list(groups))
    _write(pyplot, figure, axis, name, title, unit)
    return True


def _pyplot() -> Any:
    """The library, drawing to files; None without it."""
    if importlib.util.find_spec("matplotlib") is None:
        say("no plot: matplotlib is not installed (pip install 'quire-kv[bench]')")
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _write(pyplot: Any, figure: Any, axis: Any, name: str, title: str, unit: str) -> None:
    axis.set_title(title)
    axis.set_ylabel(unit)
    axis.grid(alpha=0.3)
    axis.legend()
    figures.RESULTS.mkdir(exist_ok=True)
    figure.savefig(figures.RESULTS / f"{name}.png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)
