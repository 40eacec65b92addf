"""What the steps run in: this checkout, wheels that were carried along, and what the machine has.

A GPU machine may reach no registry and have no Quire installed. So the folders of the checkout go into PYTHONPATH, and
a folder of our own comes after them with the wheels that are missing there. Nothing outside that folder is changed. A
wheel that cannot be installed stops nothing: it is reported, and steps that can do without it run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("proto", "kvstore", "kernels", "engine", "services")
NEEDED = (
    "pyzmq",
    "msgpack",
    "structlog",
    "uvloop",
    "llguidance",
    "numpy",
    "torch",
    "triton",
    "transformers",
    "huggingface-hub",
    "safetensors",
    "pytest",
)
PIP_S = 120.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """The environment of the steps.

    Attributes:
        env: variables.
        missing: needed packages that are nowhere.
        refused: carried wheels that pip would not install, with all that it said.
    """

    env: dict[str, str]
    missing: tuple[str, ...]
    refused: dict[str, str]


def prepare(scratch: Path, wheels: Path, device: str) -> Prepared:
    """Make the environment of the steps.

    Args:
        scratch: a directory of this run.
        wheels: carried wheels; those whose package the machine has already are left alone.
        device: ``cuda``, or ``cpu`` for Triton's interpreter.
    """
    site = scratch / "site"
    site.mkdir(parents=True, exist_ok=True)
    refused = _install(wheels, site)
    paths = [ROOT, *(ROOT / folder for folder in FOLDERS), site]
    sys.path += map(str, paths[1:])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *_old()])}
    env |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env.pop("TRITON_INTERPRET", None)
    if device == "cpu":
        env |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    wanted = NEEDED if device == "cpu" else (*NEEDED, "cuda-bindings")
    return Prepared(env, tuple(name for name in wanted if not _has(name)), refused)


def _old() -> list[str]:
    return [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []


def _has(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _install(wheels: Path, site: Path) -> dict[str, str]:
    """Install the carried wheels that are missing, each alone and without its needs: those are carried too, or there.

    Returns what pip said of those that it refused.
    """
    refused = {}
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--disable-pip-version-check"]
    for file in sorted(wheels.glob("*.whl")):
        if _has(file.name.partition("-")[0]):
            continue
        with tempfile.TemporaryFile("w+") as said:
            try:
                command = [*pip, "--target", str(site), str(file)]
                failed = subprocess.run(command, stdout=said, stderr=said, timeout=PIP_S, check=False).returncode
            except (OSError, subprocess.TimeoutExpired) as error:
                failed, _ = 1, said.write(f"{error}\n")
            if failed:
                said.seek(0)
                refused[file.name] = said.read().strip() or f"pip ended with {failed}"
    return refused
