"""Compiles the kernels for CPUs ahead of time, for an image without a compiler: prebuild_kernels.py FOLDER.

One library for each level of x86-64 processors in ``quire_kernels.cpu.prebuilt``; on other machines none, and a line
that says so. Needs a C compiler and the sources, no torch.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "kernels"))  # also where nothing is installed

from quire_kernels.cpu.host_library import NoHostLibrary, compile_library  # noqa: E402
from quire_kernels.cpu.prebuilt import LEVELS, file_of  # noqa: E402


def main(folder: Path) -> int:
    """Exit code 0, or 1 and why."""
    folder.mkdir(parents=True, exist_ok=True)
    if platform.machine() != "x86_64":
        print(f"kernels: none for {platform.machine()}; engines compute with PyTorch where they find no C compiler")
        return 0
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        print("kernels: no C compiler (cc) on the path", file=sys.stderr)
        return 1
    for level, processors in LEVELS.items():
        try:
            compile_library(compiler, file_of(level, folder), processors.flags)
        except NoHostLibrary as error:
            print(f"kernels: {error}", file=sys.stderr)
            return 1
        print(f"kernels: {file_of(level, folder)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
