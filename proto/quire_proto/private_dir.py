"""A directory that is ours alone: the only kind in which sockets are trusted.

A user that may write to a directory may put a socket into it and read what was meant for the kvstore; one that
makes ``/tmp/quire-UID-PORT`` before its owner does has done so already. So a run directory is asked about before
anything in it is read or spoken to: a real directory, of this user, open to no other. A link is refused even where
it leads to such a one, for its owner may turn it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from quire_proto.wire.errors import LocalError


class NotPrivate(LocalError):
    """Others can put things into the directory; the message says how it shows."""


def insist_on_private(path: str | os.PathLike[str]) -> None:
    """Raise NotPrivate unless ``path`` is a directory of this user with mode 0700; OSError if it cannot be looked at.

    Root's directories are no exception: where root runs the kvstore, only root can enter.
    """
    info = os.lstat(path)
    shown = os.fspath(path)
    if stat.S_ISLNK(info.st_mode):
        raise NotPrivate(
            f"{shown}: the run directory is a symbolic link, which another user could turn: name its target"
        )
    if not stat.S_ISDIR(info.st_mode):
        raise NotPrivate(f"{shown}: the run directory is no directory")
    if info.st_uid != os.geteuid():
        raise NotPrivate(
            f"{shown}: the run directory belongs to another user (uid {info.st_uid}); it must be ours alone"
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise NotPrivate(f"{shown}: the run directory is open to other users; it must be ours alone (chmod 0700)")


def free_socket_name(path: str | os.PathLike[str]) -> None:
    """Remove a socket that a dead process left where a new one is to be bound; the caller knows that it is dead.

    Raises FileExistsError for anything but a socket: that was not ours.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(
                errno.EEXIST, "is in the place of a socket and is none: move it away", os.fspath(path)
            )
        os.unlink(path)
