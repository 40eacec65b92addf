"""Host library: our C source, compiled once for the machine it runs on.

PyTorch has no attention that reads a paged arena on a CPU. Where a C compiler is at hand the few lines of C beside this
file close that gap; where none is, ``load`` says why and the caller keeps to PyTorch. Compiling takes some ten seconds,
so the result is kept in the user's cache directory under a name that changes with source, compiler and
processor. Where there is no compiler, a library that was compiled ahead is taken (``prebuilt``).

What a processor lacks the source does by what it has: bfloat16 pairs are widened where there is no AVX512-BF16. The
variable QUIRE_CPU_LEVEL, one of the levels in ``prebuilt``, forces the library of a lesser processor, to test and
measure it on a better one.

Invariants: only a file in a directory that is ours and that no other user may write is ever loaded; a compilation is
renamed into place whole, so that processes which start together do not see half a library.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .prebuilt import LEVELS, find_prebuilt, levels_of

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.c")))
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))
NATIVE = ("-march=native",)
FORCED = "QUIRE_CPU_LEVEL"
FLAGS = ("-O3", "-fno-math-errno", "-ffp-contract=off", "-shared", "-fPIC")
THREADS = "-fopenmp"  # of the same library as torch's: its threads, which would otherwise spin beside ours
COMPILE_TIMEOUT_S = 600  # on a machine that is busy


class NoHostLibrary(Exception):
    """There is no compiled library here; the message says why."""


@functools.cache
def load() -> ctypes.CDLL:
    """The library, compiled if it was not yet. Raises NoHostLibrary, each time anew."""
    compiler, forced = shutil.which(os.environ.get("CC", "cc")), os.environ.get(FORCED)
    if forced is not None and forced not in levels_of():
        raise NoHostLibrary(f"{FORCED}={forced}: this processor knows {', '.join(levels_of()) or 'no level'}")
    try:
        if compiler is None:
            path = find_prebuilt(forced=forced)
            if path is None:
                raise NoHostLibrary("no C compiler (cc) on the path, and none compiled ahead for this processor")
        else:
            processor = LEVELS[forced].flags if forced else NATIVE
            path = _directory() / f"cpu-{_name(compiler, processor)}.so"
            if not path.exists():
                compile_library(compiler, path, processor)
        return ctypes.CDLL(str(path))
    except OSError as exc:
        raise NoHostLibrary(f"{type(exc).__name__}: {exc}") from None


def _directory() -> Path:
    """The cache directory, private to this user. Raises OSError or NoHostLibrary."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    directory = Path(base) / "quire"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise NoHostLibrary(f"{directory} belongs to another user, or others may write there")
    return directory


def _name(compiler: str, processor: tuple[str, ...]) -> str:
    """Changes with whatever changes the machine code."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, timeout=COMPILE_TIMEOUT_S, check=False
    ).stdout
    sources = b"\0".join(file.read_bytes() for file in SOURCES + HEADERS)
    parts = (
        sources,
        " ".join((*FLAGS, *processor, THREADS)).encode(),
        version,
        platform.machine().encode(),
        processor_features(),
    )
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def processor_features() -> bytes:
    """The processor's features, as far as the system tells: a home directory may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))


def compile_library(compiler: str, path: Path, processor: tuple[str, ...] = NATIVE) -> None:
    """Compile it to ``path``, for this machine or for the processors that other flags name. Raises NoHostLibrary."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        failed = _build(compiler, (*FLAGS, *processor, THREADS), made)
        if failed:  # a compiler without OpenMP: one thread then
            failed = _build(compiler, (*FLAGS, *processor, "-Wno-unknown-pragmas"), made)
        if failed:
            raise NoHostLibrary(f"{compiler} failed: {failed[:300]}")
        made.replace(path)


def _build(compiler: str, flags: tuple[str, ...], made: Path) -> str:
    """Compile the sources beside each other and link them to ``made``; what the compiler says of a failure, or ""."""
    objects = [made.with_name(f"{source.stem}.o") for source in SOURCES]
    commands = [
        [compiler, *flags, "-c", "-o", str(to), str(source)] for source, to in zip(SOURCES, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failed = [said for said in pool.map(_run, commands) if said]
    return failed[0] if failed else _run([compiler, *flags, "-o", str(made), *map(str, objects), "-lm"])


def _run(command: list[str]) -> str:
    """What the command says of its failure, or "". Raises NoHostLibrary if it takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NoHostLibrary(f"{command[0]} took more than {COMPILE_TIMEOUT_S} s") from None
    return (done.stderr.strip() or f"status {done.returncode}") if done.returncode else ""
