"""The environment of an engine with what is preloaded, and what an engine finds to be so.

``ENGINE_PRELOADED`` says that this was decided, and for what: it is there with an empty value where nothing is taken.
An engine that does not find it was not started by a supervisor; it decides for itself, and becomes the same program
anew (``exec``) before it has imported anything that computes.

Invariants: what an operator preloads stays, and comes first; nothing is preloaded for an engine that computes on a GPU.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from quire_proto.memory.cuda_device import CONTROL_DEVICE
from quire_services.config.settings import EngineSettings

from .libraries import PRELOAD_KINDS, find

PRELOAD, PRELOADED = "LD_PRELOAD", "ENGINE_PRELOADED"
# How long a thread of Intel's OpenMP spins for its next piece of work, in milliseconds: its own 200 would take the
# gateway's cores. Taken where the environment does not say otherwise.
DEFAULTS = {"KMP_BLOCKTIME": "1"}
NVIDIA_DEVICE = Path(CONTROL_DEVICE)
_SHM = Path("/dev/shm")


def preload_environment(engine: EngineSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """What is to be added to ``environ`` before an engine with these settings starts."""
    if not engine.preload or not computes_on_cpu(engine):
        return {PRELOADED: ""}
    taken = [library.path for library in find(environ) if not library.why_not]
    if not taken:
        return {PRELOADED: ""}
    own = environ.get(PRELOAD, "").replace(":", " ").split()
    defaults = {name: value for name, value in DEFAULTS.items() if name not in environ}
    return {
        **defaults,
        PRELOAD: ":".join([*own, *(path for path in taken if path not in own)]),
        PRELOADED: ":".join(taken),
    }


def computes_on_cpu(engine: EngineSettings) -> bool:
    """Whether an engine here computes on the CPU, as far as that shows without torch."""
    return engine.attention == "cpu" or (engine.attention == "auto" and not NVIDIA_DEVICE.exists())


def become_preloaded(engine: EngineSettings) -> None:
    """Have this process be the same program with what is to be preloaded; returns where nothing is."""
    os.environ.update(preload_environment(engine, os.environ))
    if os.environ[PRELOADED]:
        with suppress(OSError):  # without them, then
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Symbol(ctypes.Structure):
    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("at", ctypes.c_void_p),
    ]


def in_effect() -> list[str]:
    """Of what was to be preloaded, the libraries from which this process takes their kind's functions."""
    wanted = {os.path.realpath(path) for path in os.environ.get(PRELOADED, "").split(":") if path}
    return [path for _, function in PRELOAD_KINDS.values() if os.path.realpath(path := _provider(function)) in wanted]


def _provider(function: str) -> str:
    """The library from which a function of this name comes here; "" if none has it."""
    program = ctypes.CDLL(None)
    with suppress(AttributeError):
        symbol = _Symbol()
        address = ctypes.cast(getattr(program, function), ctypes.c_void_p)
        if program.dladdr(address, ctypes.byref(symbol)):
            return os.fsdecode(symbol.file or b"")
    return ""


def drop_registration(begin: bool = False) -> None:
    """Remove the page of shared memory by which Intel's OpenMP finds a second one of itself in a process. It does that
    itself when the process ends, but not when it is killed. Once it has begun it needs the page no more.

    Args:
        begin: see to it that it has begun, by a parallel region of one thread; a forked process begins anew.
    """
    if begin and os.environ.get(PRELOADED) and in_effect():
        with suppress(AttributeError):
            ctypes.CDLL(None).GOMP_parallel(_REGION(lambda _: None), None, 1, 0)
    with suppress(OSError):
        (_SHM / f"__KMP_REGISTERED_LIB_{os.getpid()}_{os.getuid()}").unlink()


def preload_in_words(engine: EngineSettings) -> str:
    """For a person: what this engine has preloaded; "" for one that has no use for it."""
    if not computes_on_cpu(engine):
        return ""
    if not engine.preload:
        return "nothing (engine.preload)"
    return ", ".join(in_effect()) or "neither libiomp5 nor tcmalloc is here; `quire doctor` says how to get them"
