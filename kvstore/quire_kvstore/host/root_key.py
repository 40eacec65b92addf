"""The root key: 32 random bytes from which the keys of all share domains are derived.

It survives boots, so that a tenant's digests stay the same; it lies in the state directory, mode 0600, and never
travels. A key file that others may read is refused: its reader can name every tenant's blocks.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

KEY_FILE = "root.key"
KEY_BYTES = 32


class KeyFileError(Exception):
    """The key file is not usable; the message says why."""


def root_key(state_dir: Path) -> bytes:
    """The root key, made on first use. Raises KeyFileError."""
    path = state_dir / KEY_FILE
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    draft = state_dir / f".{KEY_FILE}.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_bytes(KEY_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(draft, path)  # unlike rename this never replaces the key of a process that was faster
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return _read(path)


def _read(path: Path) -> bytes:
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):  # a pipe would keep us waiting
        raise KeyFileError(f"{path}: not a file")
    if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise KeyFileError(f"{path}: must be readable by its owner only (chmod 600)")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"{path}: {len(key)} bytes; a root key has {KEY_BYTES}")
    return key
