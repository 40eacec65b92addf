"""The kvstore's state in a run directory, and what a follower of declarations keeps there: made with the stack, and
removed with it.

A marker inside holds a random word that the stack's own marker repeats: only a directory that both agree on is ever
touched, and in it only what has the shape of the kvstore's own files, or a name of the follower's. Anything else stays,
and the directories with it.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from quire_kvstore.host.root_key import KEY_BYTES, KEY_FILE
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_services.config.declared_names import DECLARED_DIR, DECLARED_FILES

STATE = "state"  # its name in the run directory
MARKER = ".stack"
PUBLICATIONS_DIR = "publications"
KVSTORE_DOCUMENTS = ("groups", "quotas", "event_numbers")


class StateTree:
    """The state directory of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, word: str) -> str:
        """Make it, or take over the one of a dead stack that left ``word``; returns the word it is marked with.

        Raises FileExistsError if something else is there, OSError if it cannot be made.
        """
        if word and self._marked(word):
            return word
        self.path.mkdir(mode=0o700)
        word = secrets.token_hex(16)
        (self.path / MARKER).write_text(word)
        return word

    def remove(self, word: str) -> None:
        """Remove what the kvstore wrote, and what is then empty, if it is marked with ``word``."""
        if not self._marked(word):
            return
        folder = self.path / PUBLICATIONS_DIR
        names = [
            *KVSTORE_DOCUMENTS,
            *(StateDir(self.path).names(PUBLICATIONS_DIR) if _plain(folder, stat.S_IFDIR) else ()),
        ]
        for name in names:
            file = self.path / f"{name}.json"
            if _plain(file, stat.S_IFREG) and self._is_document(name):
                file.unlink()
        key = self.path / KEY_FILE
        if _plain(key, stat.S_IFREG) and key.lstat().st_size == KEY_BYTES:
            key.unlink()
        declared = self.path / DECLARED_DIR
        for file in (declared / name for name in DECLARED_FILES) if _plain(declared, stat.S_IFDIR) else ():
            if _plain(file, stat.S_IFREG):
                file.unlink()
        for each in (folder, declared):
            with suppress(OSError):
                each.rmdir()
        if os.listdir(self.path) == [MARKER]:
            (self.path / MARKER).unlink()
            self.path.rmdir()

    def _marked(self, word: str) -> bool:
        marker = self.path / MARKER
        try:
            return _plain(self.path, stat.S_IFDIR) and _plain(marker, stat.S_IFREG) and marker.read_text() == word
        except (OSError, ValueError):
            return False

    def _is_document(self, name: str) -> bool:
        try:
            return StateDir(self.path).read(name) is not None
        except StateError:
            return False


def _plain(path: Path, kind: int) -> bool:
    """Whether there is a file of this kind, and no link to one."""
    try:
        return stat.S_IFMT(path.lstat().st_mode) == kind
    except OSError:
        return False
