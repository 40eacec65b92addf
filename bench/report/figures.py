"""Figures: percentiles and medians, the facts of the machine, tables, and results on disk.

A figure without its machine, versions and command is worth nothing, so ``Report`` will not be written without them.
Noise is met with interleaved pairs: both sides are measured in turn, a ratio is taken within each pair, and the
median over the pairs is reported.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
PACKAGES = ("torch", "transformers", "pyzmq", "msgpack", "numpy")


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the sorted values lie, linearly interpolated. Needs one value."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile of no values")
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Iterable[float]) -> float:
    """The middle of the values."""
    return percentile(values, 0.5)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model, flags = "unknown", ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() == "flags":
            flags = value
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "avx512": "avx512f" in flags,
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": os.getloadavg()[0],
    }


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Quire and of installed packages, and the commit if this is a checkout."""
    from quire_proto import (
        __version__,
    )  # here: a run on a bare machine finds the checkout's folders later than this file

    found = {"quire": __version__}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    asked = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode == 0:
        found["commit"] = asked.stdout.strip()
    return found


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """A Markdown table with aligned columns; floats with three significant digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(header[i]), *(len(row[i]) for row in cells), 3) for i in range(len(header))]
    lines = ["| " + " | ".join(name.ljust(width) for name, width in zip(header, widths, strict=True)) + " |"]
    lines.append("|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|")
    for row in cells:
        padded = (
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("| " + " | ".join(padded) + " |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def command() -> str:
    """The command line of this process, as a person would type it."""
    return "quire bench " + shlex.join(sys.argv[2:] if sys.argv[1:2] == ["bench"] else sys.argv[1:])


@dataclass(slots=True)
class Report:
    """One run of one bench.

    Attributes:
        bench: its name.
        settings: everything that was chosen, peers' settings included.
        figures: what was measured, as JSON.
        tables: (heading, Markdown table) for people.
        notes: sentences a reader needs to judge the figures.
        command: how to run it again.
    """

    bench: str
    settings: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: str = field(default_factory=command)
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)

    def as_json(self) -> dict[str, Any]:
        """The whole report as one map."""
        return {
            "bench": self.bench,
            "command": self.command,
            "date": self.began,
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "notes": self.notes,
            "figures": self.figures,
        }

    def markdown(self) -> str:
        """The report for people."""
        facts = ", ".join(f"{k} {v}" for k, v in {**self.machine, **self.versions}.items())
        chosen = ", ".join(f"{k} {v}" for k, v in self.settings.items())
        parts = [f"# {self.bench}", f"`{self.command}`, {self.began}", f"Machine: {facts}.", f"Settings: {chosen}."]
        for heading, text in self.tables:
            parts += [f"## {heading}", text]
        parts += [f"- {note}" for note in self.notes]
        return "\n\n".join(parts) + "\n"

    def write(self, name: str | None) -> None:
        """Write ``results/NAME.json`` and ``.md``; nothing without a name."""
        if name:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")
            (RESULTS / f"{name}.md").write_text(self.markdown())

    def show(self, as_json: bool) -> None:
        """Print JSON for programs or the report for people."""
        print(json.dumps(self.as_json()) if as_json else self.markdown())


def say(text: str) -> None:
    """One line of progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)
