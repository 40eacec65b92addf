"""Prebuilt host library: the one that was compiled ahead, for machines without a C compiler.

An image has no compiler, so ``scripts/prebuild_kernels.py`` compiles the C once for each level of x86-64 processors
that is worth it, into the environment's own folder. What lies there belongs to the installation, as its Python files
do.

A processor takes the highest level of which it has every feature: one feature too few is an illegal instruction, which
no program survives.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
BF16 = V4 | {"avx512_bf16"}


@dataclass(frozen=True, slots=True)
class Level:
    """Processors that have some features, and the compiler's flags for them."""

    features: frozenset[str]
    flags: tuple[str, ...]


# By the names of the psABI and compilers, which have none for the first; highest first.
LEVELS = {
    "x86-64-v4-bf16": Level(BF16, ("-march=x86-64-v4", "-mavx512bf16")),
    "x86-64-v4": Level(V4, ("-march=x86-64-v4",)),
    "x86-64-v3": Level(V3, ("-march=x86-64-v3",)),
}
FOLDER = Path("share/quire/kernels")  # in the environment


def file_of(level: str, folder: Path) -> Path:
    """Where the library of a level lies."""
    return folder / f"cpu-{level}.so"


def find_prebuilt(
    folder: Path | None = None, cpuinfo: Path = Path("/proc/cpuinfo"), forced: str | None = None
) -> Path | None:
    """The library for this processor, or of this level; None if there is none that it could run."""
    folder = Path(sys.prefix) / FOLDER if folder is None else folder
    if platform.machine() != "x86_64":
        return None
    usable = levels_of(cpuinfo)
    for level in usable if forced is None else [forced] if forced in usable else []:
        path = file_of(level, folder)
        if path.is_file():
            return path
    return None


def levels_of(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The levels of which this machine's processors have every feature, highest first."""
    features = _features(cpuinfo)
    return [name for name, level in LEVELS.items() if level.features <= features]


def _features(cpuinfo: Path) -> frozenset[str]:
    """What every processor of this machine has; nothing where the system does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    each = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return frozenset.intersection(*each) if each else frozenset()
