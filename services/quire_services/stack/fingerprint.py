"""Fingerprints: a digest of all that a process is started with, by which a running one is told from the one asked for.

Its command line carries every setting, whatever source that came from. What a command line cannot show is added: the
version of Quire, the model's files, and for the kvstore what was prepared and which tenants are in which group. The
environment is left out: most of it is about the terminal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from quire_proto import __version__
from quire_services.config.settings import Tenant


def fingerprint(argv: Sequence[str], *more: object) -> str:
    """A digest of a command line, of this version and of more values that JSON can hold."""
    return hashlib.sha256(json.dumps([__version__, *argv, *more]).encode()).hexdigest()


def model_files(directory: Path) -> list[tuple[str, int, int]]:
    """What tells whether a model's files are those of before: name, size and time of each."""
    found = []
    for file in sorted(directory.iterdir()):
        if file.is_file():
            info = file.stat()
            found.append((file.name, info.st_size, info.st_mtime_ns))
    return found


def memberships(tenants: Sequence[Tenant]) -> list[tuple[str, list[str]]]:
    """What the kvstore takes from the configuration's tenants: their groups."""
    return [(tenant.name, list(tenant.groups)) for tenant in tenants if tenant.groups]


def content_digest(file: Path) -> str:
    """A digest of a file's content; empty if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
