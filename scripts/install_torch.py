"""Installs the pinned torch into this environment: PyTorch's CPU build, or PyPI's where there is a GPU.

PyPI's torch for Linux is the CUDA build: with the packages it requires more than 2 GB that a machine without a GPU
never uses. So pip is asked first what it would install as it is configured. If that needs no CUDA (a wheel or an index
that was set up), it is taken; otherwise the wheel comes from the index in TORCH_INDEX and from nowhere else.

TORCH_INDEX: URL of an index with the wanted build, by default PyTorch's of CPU wheels; empty: as pip is configured.

Usage: python scripts/install_torch.py [--build cpu|gpu]  (default: gpu if this machine shows one)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # make sets PYTHONSAFEPATH

from plain_pip import PIP, environment  # noqa: E402

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA = re.compile(r"(nvidia|cuda)-")


def pinned() -> str:
    """``torch==VERSION`` as constraints.txt has it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def has_gpu(root: Path = Path("/")) -> bool:
    """Whether the machine shows an NVIDIA GPU: its tool, its device or its driver."""
    driver = (root / "dev/nvidiactl", root / "proc/driver/nvidia")
    return any(path.exists() for path in driver) or shutil.which("nvidia-smi") is not None


def index_for(build: str, torch: str) -> str:
    """URL of the index to take ``torch`` from, or empty: as pip is configured."""
    told = os.environ.get("TORCH_INDEX")
    if told is not None:
        return told
    return "" if build == "gpu" or _needs_no_cuda(torch) else CPU_INDEX


def _needs_no_cuda(torch: str) -> bool:
    """Whether pip, as it is configured, offers a build without CUDA; of most sources it reads but the metadata."""
    question = ["install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", torch]
    asked = subprocess.run([*PIP, *question], capture_output=True, text=True, check=False)
    if asked.returncode:
        return False
    (found,) = json.loads(asked.stdout)["install"]
    return not any(CUDA.match(name) for name in found["metadata"].get("requires_dist", ()))


def install(torch: str, index: str) -> int:
    """Run pip; returns its exit code. From an index of its own torch comes alone, its dependencies later from PyPI."""
    if not index:
        return subprocess.run([*PIP, "install", "-c", str(ROOT / "constraints.txt"), torch], check=False).returncode
    only = ["--no-deps", "--index-url", index]
    return subprocess.run([*PIP, "install", *only, torch], env=environment(), check=False).returncode


def main() -> int:
    """Exit code 0, or 1 and what can be done about it."""
    parser = argparse.ArgumentParser(description="install the pinned torch: the CPU build where there is no GPU")
    parser.add_argument("--build", choices=("cpu", "gpu"), default="gpu" if has_gpu() else "cpu")
    build, torch = parser.parse_args().build, pinned()
    try:
        if version("torch").partition("+")[0] == torch.removeprefix("torch=="):
            print(f"torch: {version('torch')} is there")
            return 0
    except PackageNotFoundError:
        pass
    index = index_for(build, torch)
    source = index or "where pip is configured to look"
    print(f"torch: {torch} for {build.upper()} from {source}", flush=True)
    if not install(torch, index):
        return 0
    print(
        f"torch: {torch} could not be installed from {source}. Set TORCH_INDEX to another index of PyTorch's wheels, "
        "or to nothing (TORCH_INDEX=) for what pip is configured for: PyPI's is the CUDA build, more than 2 GB.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
