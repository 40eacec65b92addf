"""Plots of results, where matplotlib is installed (extra ``bench``); without it only tables and JSON are written."""

from __future__ import annotations

import importlib.util

from .figures import RESULTS, say

Curves = dict[str, list[tuple[float, float]]]


def lines(name: str, title: str, axes: tuple[str, str], curves: Curves, log: bool = False) -> bool:
    """Write ``results/NAME.png`` with one line a curve; returns whether there is a plotting library."""
    if importlib.util.find_spec("matplotlib") is None:
        say("no plot: matplotlib is not installed (pip install 'quire[bench]')")
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for label, points in curves.items():
        axis.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
    if log:
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.set_title(title)
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    axis.grid(alpha=0.3)
    axis.legend()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return True
