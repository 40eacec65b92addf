"""What a check at load has found, kept for the next engine to which nothing is new.

For checks whose outcome is told and decides nothing: an engine that is replaced has said it before, and its successor
need not spend a second on finding the same. Kept in the user's cache directory, under a digest of all that it may
depend on: what the caller names, the files of this package, kernels, processor, and the libraries that compute. A file
that cannot be read or written costs the check and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import quire_engine
from quire_kernels.cpu.host_library import NoHostLibrary, load, processor_features

LIBRARIES = ("torch", "transformers", "numpy")
_MOST_BYTES = 4096


def found_once(check: str, depends_on: tuple[object, ...], find: Callable[[], str]) -> str:
    """The outcome of ``find``, from the last time if nothing has changed since."""
    file = _directory() / f"{check}-{_digest(depends_on)}"
    with suppress(OSError, UnicodeDecodeError), file.open() as kept:
        return kept.read(_MOST_BYTES)
    outcome = find()
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as draft:
            draft.write(outcome)
        os.replace(draft.name, file)
    return outcome


def _directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "quire" / "verdicts"


def _digest(depends_on: tuple[object, ...]) -> str:
    changed = sorted((str(file), file.stat().st_mtime_ns) for file in Path(quire_engine.__path__[0]).rglob("*.py"))
    libraries = [version(library) for library in LIBRARIES]
    text = repr((depends_on, changed, libraries, _kernels(), processor_features()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _kernels() -> str:
    """The library's file, whose name changes with its sources."""
    try:
        return load()._name
    except NoHostLibrary:
        return ""
