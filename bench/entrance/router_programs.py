"""Programs of routers, each in an environment of its own, as ``scripts/client_envs.py`` makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.processes.side import ROOT, SideError
from quire_services.cluster.entrance.entrance import PROGRAMS

ENVIRONMENTS = ROOT / ".clients"
# Where a router of the entrance comes from: the environment's name, and the distribution whose version counts.
PACKAGES = {"vllm-router": ("vllm_router", "vllm-router"), "dynamo": ("dynamo", "ai-dynamo-runtime")}
ASK = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


def router_program(router: str, environments: Path = ENVIRONMENTS) -> Path | None:
    """The program of a router; None for one that needs none. Raises SideError where it is not installed."""
    if router not in PACKAGES:
        return None
    environment = PACKAGES[router][0]
    program = environments.absolute() / environment / "bin" / PROGRAMS[router]
    if not program.exists():
        make = f"python scripts/client_envs.py --into {environments} {environment}"
        raise SideError(f"{program} is not there: make it with `{make}`, or leave {router} out of --router")
    return program


def router_version(router: str, program: Path | None) -> str:
    """What is installed; ours where it has no program."""
    if program is None:
        return "ours"
    asked = [str(program.parent / "python"), "-c", ASK, PACKAGES[router][1]]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
