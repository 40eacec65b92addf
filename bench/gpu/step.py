"""What all steps of the GPU run have in common: their options, their time, their parts, and the file of their figures.

A step is a process. Figures are written after every part, whole or not at all, so that a step which runs out of time or
dies leaves what it had. A part that fails is recorded in full and the others go on, unless the failure says that the
device is lost to this process: after that nothing it says would mean anything, and it ends.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.report.figures import say

Row = dict[str, Any]  # of figures, by the name of their column

FIGURES = "figures.json"
DEVICE_LOST = 4  # exit status, as of an engine whose context is poisoned
# Words of the driver for failures after which every later call of the process fails, too. Triton and libraries raise
# RuntimeError with them where PyTorch raises AcceleratorError.
FATAL = (
    "illegal memory access", "illegal instruction", "unspecified launch failure", "launch timed out",
    "misaligned address", "device-side assert", "hardware stack error", "invalid program counter", "ecc error",
    "context is destroyed",
)  # fmt: skip
HARMLESS = ("out of memory", "captur")  # AcceleratorErrors that leave the context alive


def device_is_lost(error: BaseException) -> bool:
    """Whether this process can use its GPU no more after ``error``."""
    text = str(error).lower()
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"AcceleratorError", "ContextPoisoned", "DeviceFault"}:
        return not any(word in text for word in HARMLESS)
    return any(word in text for word in FATAL)


@dataclass(slots=True)
class Step:
    """One step at work.

    Attributes:
        device: ``cuda``, or ``cpu``: a dry run with tiny sizes in Triton's interpreter, whose times mean nothing.
        seconds: its limit.
        folder: where its figures and logs go.
        what: which of several things that its module does.
        figures: what was found so far, by part.
        failures: parts that failed, with the reason.
    """

    device: str
    seconds: float
    folder: Path
    what: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def from_arguments(cls, doc: str | None, *whats: str) -> Step:
        """From the command line that ``run.py`` writes."""
        parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
        if whats:
            parser.add_argument("what", choices=whats)
        parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
        parser.add_argument("--seconds", type=float, default=600.0)
        parser.add_argument("--out", type=Path, required=True)
        options = parser.parse_args()
        options.out.mkdir(parents=True, exist_ok=True)
        return cls(options.device, options.seconds, options.out, getattr(options, "what", ""))

    @property
    def dry(self) -> bool:
        """Whether this is the dry run without a GPU."""
        return self.device == "cpu"

    @property
    def left(self) -> float:
        """Seconds of the limit that are left."""
        return self.seconds - (time.monotonic() - self.began)

    def part(self, name: str, action: Callable[[], Any]) -> None:
        """Run one part and keep its figures; if it fails, keep the reason and go on, or end with the device."""
        began = time.monotonic()
        say(f"{name} ...")
        try:
            self.figures[name] = action()
        except Exception as error:  # whatever it is, it is this part's result
            self.fail(name, error)
        else:
            say(f"{name}: {time.monotonic() - began:.1f} s")
        self.save()

    def fail(self, name: str, error: Exception) -> None:
        """Keep why a part failed, with the traceback in the log. Raises SystemExit if the device is lost."""
        self.failures[name] = f"{type(error).__name__}: {error}"
        say(f"{name}: FAILED\n{''.join(traceback.format_exception(error))}")
        if device_is_lost(error):
            self.failures[name] += "\nThe device is lost to this process: what was left of the step was not tried."
            self.save()
            raise SystemExit(DEVICE_LOST) from error

    def save(self) -> None:
        """Write the figures."""
        file = self.folder / FIGURES
        beside = file.with_suffix(".new")
        beside.write_text(json.dumps({**self.figures, "failures": self.failures}), encoding="utf-8")
        beside.replace(file)

    def end(self) -> int:
        """Exit status of the step."""
        self.save()
        return 1 if self.failures else 0
