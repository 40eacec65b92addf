"""What all phases of the GPU run have in common: their options, their time, and the file of their figures.

Figures are written after every part, whole or not at all, so that a phase which runs out of time or crashes leaves
what it had.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.report.figures import say

Row = dict[str, Any]  # of figures, by the name of their column


@dataclass(slots=True)
class Phase:
    """One phase at work.

    Attributes:
        device: ``cuda``, or ``cpu``: a dry run with tiny sizes in Triton's interpreter, whose times mean nothing.
        seconds: its time budget.
        out: where its figures go.
        figures: what was found so far.
        failures: parts that failed, with the reason.
    """

    device: str
    seconds: float
    out: Path
    figures: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def from_arguments(cls, doc: str | None) -> Phase:
        """From the command line that ``run.py`` writes."""
        parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
        parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
        parser.add_argument("--seconds", type=float, required=True)
        parser.add_argument("--out", type=Path, required=True)
        options = parser.parse_args()
        return cls(options.device, options.seconds, options.out)

    @property
    def dry(self) -> bool:
        """Whether this is the dry run without a GPU."""
        return self.device == "cpu"

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.seconds - (time.monotonic() - self.began)

    def part(self, name: str, action: Callable[[], Any]) -> None:
        """Run one part and keep its figures; if it fails, keep the reason and go on."""
        began = time.monotonic()
        say(f"{name} ...")
        try:
            self.figures[name] = action()
        except Exception as exc:  # whatever it is, it is this part's result
            self.failures[name] = f"{type(exc).__name__}: {exc}"[:2000]
            say(f"{name}: FAILED: {self.failures[name]}")
        else:
            say(f"{name}: {time.monotonic() - began:.1f} s")
        self.save()

    def save(self) -> None:
        """Write the figures."""
        beside = self.out.with_suffix(".new")
        beside.write_text(json.dumps({**self.figures, "failures": self.failures}), encoding="utf-8")
        beside.replace(self.out)

    def end(self) -> int:
        """Exit code of the phase."""
        self.save()
        return 1 if self.failures else 0
