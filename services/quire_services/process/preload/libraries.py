"""Which libraries there are to preload on this machine, and whether they can be.

Looked for in the environment's own ``lib``, where packages of PyPI put them, and where the system's loader looks. Each
that is there is tried in a child: what is of another architecture, lacks a library of its own, does not have the
function in question or ends the process that loads it, does so there, and is not taken.

Invariant: what ``find`` returns as taken was loaded by a process of this interpreter a moment ago.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROBE_S = 5.0  # it takes some twenty milliseconds
# Of each kind in the order in which they are wanted, and a function that is to come from them.
PRELOAD_KINDS = {
    "OpenMP": (("libiomp5.so",), "GOMP_parallel"),
    "allocator": (("libtcmalloc_minimal.so.4", "libtcmalloc.so.4"), "malloc"),
}
# Prints from which library a function comes, in a process that was started with one of them preloaded.
_PROBE = """
import ctypes, os, sys
class Symbol(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("rest", ctypes.c_void_p * 3)]
program, symbol = ctypes.CDLL(None), Symbol()
if hasattr(program, sys.argv[1]):
    program.dladdr(ctypes.cast(getattr(program, sys.argv[1]), ctypes.c_void_p), ctypes.byref(symbol))
    print(os.fsdecode(symbol.file or b""))
"""


@dataclass(frozen=True, slots=True)
class Library:
    """One that is there.

    Attributes:
        kind: one of ``PRELOAD_KINDS``.
        path: where it lies.
        why_not: why it cannot be taken; empty if it can.
    """

    kind: str
    path: str
    why_not: str = ""


def find(environ: Mapping[str, str], folder: Path | None = None) -> list[Library]:
    """What there is, at most one of each kind that can be taken, and before it what cannot.

    Args:
        environ: of the process that is to load them.
        folder: the environment's, which has a ``lib``; this interpreter's if None.
    """
    lib = (Path(sys.prefix) if folder is None else folder) / "lib"
    folders = [lib, *map(Path, filter(None, environ.get("LD_LIBRARY_PATH", "").split(":"))), *_system_folders()]
    with ThreadPoolExecutor(len(PRELOAD_KINDS)) as pool:
        each = pool.map(lambda kind: _of_kind(kind, folders, environ), PRELOAD_KINDS)
        return [library for kind in each for library in kind]


def _system_folders() -> list[Path]:
    """Where the system's loader looks."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
    return [Path("/usr/local/lib"), Path("/usr/lib") / multiarch, Path("/usr/lib64"), Path("/usr/lib")]


def _of_kind(kind: str, folders: Sequence[Path], environ: Mapping[str, str]) -> list[Library]:
    """Those that are there, up to the first that can be taken."""
    names, function = PRELOAD_KINDS[kind]
    found: list[Library] = []
    for path in (folder / name for name in names for folder in folders):
        if path.exists():
            found.append(Library(kind, str(path), _why_not(path, function, environ)))
            if not found[-1].why_not:
                break
    return found


def _why_not(path: Path, function: str, environ: Mapping[str, str]) -> str:
    """Why a library cannot be taken, from a child that preloads it; empty if it can."""
    if {" ", ":"} & set(str(path)):
        return "its path has a character that divides entries of LD_PRELOAD"
    own = environ.get("LD_PRELOAD", "")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROBE, function],
            env={**environ, "LD_PRELOAD": f"{own} {path}".strip()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a process that loads it was not up within {PROBE_S:.0f} s"
    except OSError as error:
        return f"no process could be started to try it: {error.strerror}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return f"a process that loads it ends with {done.returncode}: {last[:200]}"
    provider = done.stdout.strip()
    if os.path.realpath(provider) == os.path.realpath(path):
        return ""
    said = next((line for line in done.stderr.splitlines() if str(path) in line), "")
    return said.strip()[:300] or f"{function} comes from {provider} instead"
