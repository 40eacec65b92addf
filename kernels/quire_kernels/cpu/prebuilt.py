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
from pathlib import Path

V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"x86-64-v4": V4, "x86-64-v3": V3}  # as the psABI and compilers name them, highest first
FOLDER = Path("share/quire/kernels")  # in the environment


def file_of(level: str, folder: Path) -> Path:
    """Where the library of a level lies."""
    return folder / f"cpu-{level}.so"


def find_prebuilt(folder: Path | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> Path | None:
    """The library for this processor, None if there is none."""
    folder = Path(sys.prefix) / FOLDER if folder is None else folder
    if platform.machine() != "x86_64":
        return None
    features = _features(cpuinfo)
    for level, needed in LEVELS.items():
        path = file_of(level, folder)
        if needed <= features and path.is_file():
            return path
    return None


def _features(cpuinfo: Path) -> frozenset[str]:
    """What every processor of this machine has; nothing where the system does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    each = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return frozenset.intersection(*each) if each else frozenset()
