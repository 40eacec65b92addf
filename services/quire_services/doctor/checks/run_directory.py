"""The run directory: private, writable, and what lies in it under the names that a stack needs."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from quire_kvstore.host.root_key import KEY_FILE, KeyFileError, root_key
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_proto.peer_socket import socket_state
from quire_proto.private_dir import NotPrivate, insist_on_private
from quire_services.config.socket_names import REPLAY_SOCKET, SOCKETS
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.scene import Scene
from quire_services.stack.rundir import MAX_SUN_PATH
from quire_services.stack.state_tree import KVSTORE_DOCUMENTS, PUBLICATIONS_DIR, STATE

LEAST_FREE = 1 << 20  # bytes: its files are small, and each is replaced whole


def check_run_directory(scene: Scene) -> Findings:
    """Everything of it but what the kvstore keeps there."""
    path = scene.run_dir
    if len(os.fsencode(path / REPLAY_SOCKET)) > MAX_SUN_PATH:
        yield problem(
            "run-dir-too-long",
            f"a socket's path may have {MAX_SUN_PATH} bytes; those in it would have more",
            "choose a shorter one with --run-dir",
            path,
        )
    if not os.path.lexists(path):
        yield from _absent(path)
        return
    try:
        insist_on_private(path)
    except NotPrivate as error:
        yield problem("run-dir-not-private", str(error), _privacy(path), path)
        return
    yield from _writable(path)
    yield fact("run-dir", f"{path} is this user's alone", path)
    for name in SOCKETS:
        yield from _socket(path / name)


def _absent(path: Path) -> Findings:
    parent = next(place for place in path.parents if place.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK, effective_ids=True)):
        yield problem(
            "run-dir-unwritable",
            f"{path} is not there, and user {os.geteuid()} cannot make it in {parent}",
            "choose another one with --run-dir, or let this user write there",
            parent,
        )
    else:
        yield fact("run-dir", f"{path} is not there yet: a start makes it", path)


def _privacy(path: Path) -> str:
    info = path.lstat()
    if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
        return f"chmod 700 {shlex.quote(str(path))}"
    if stat.S_ISDIR(info.st_mode):
        return (
            f"run this command and the stack as its owner (sudo -u '#{info.st_uid}' quire ...), or choose another one"
        )
    return "name a directory of this user with --run-dir"


def _writable(path: Path) -> Findings:
    space = os.statvfs(path)
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        yield problem(
            "run-dir-unwritable",
            "nothing can be written to it",
            "mount its file system for writing, give the container a tmpfs or volume there, or choose another one",
            path,
        )
    elif space.f_bavail * space.f_frsize < LEAST_FREE or (space.f_files and not space.f_favail):
        yield problem(
            "run-dir-unwritable",
            f"its file system has {space.f_bavail * space.f_frsize:,} bytes and {space.f_favail:,} files left",
            f"make room there (df -h {shlex.quote(str(path))}), or choose another one with --run-dir",
            path,
        )


def _socket(path: Path) -> Findings:
    if not os.path.lexists(path):
        return
    info = path.lstat()
    if not stat.S_ISSOCK(info.st_mode):
        yield problem(
            "foreign-file", "is in the place of a socket and is none", f"mv {shlex.quote(str(path))} elsewhere", path
        )
    elif info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o177 or not info.st_mode & stat.S_IWUSR:
        yield problem(
            "socket-permissions",
            f"its mode is {stat.S_IMODE(info.st_mode):04o} and its owner {info.st_uid}; it must be this user's alone",
            f"start its process again, as this user; until then: chmod 600 {shlex.quote(str(path))}",
            path,
        )
    elif socket_state(path) == "dead":
        yield problem(
            "stale-socket",
            "the process that listened here is gone",
            "quire serve takes the stack over, and removes what is left; or, if it is to stay down: quire stop",
            path,
        )


def check_state(scene: Scene) -> Findings:
    """What the kvstore keeps over restarts: a document that cannot be used stops its start."""
    named = scene.config.kvstore.state_dir
    # `quire serve` has a directory of its own for it, `quire kvstore` alone the run directory.
    for place in [Path(named)] if named else [scene.run_dir / STATE, scene.run_dir]:
        if place.is_dir():
            yield from _root_key(place)
            yield from _documents(place)


def _root_key(place: Path) -> Findings:
    file = place / KEY_FILE
    if not file.exists():
        return  # it is made at the start
    try:
        root_key(place)
    except (KeyFileError, OSError) as error:
        yield problem(
            "root-key-unusable",
            str(error),
            "chmod 600 and chown it; a damaged one: restore it, or move it away, and the cache begins empty",
            file,
        )


def _documents(place: Path) -> Findings:
    documents, read = StateDir(place), 0
    for name in (*KVSTORE_DOCUMENTS, *documents.names(PUBLICATIONS_DIR)):
        try:
            read += documents.read(name) is not None
        except StateError as error:
            yield problem(
                "state-unusable",
                str(error),
                "chmod 600 it, restore it, or move it away: what it declares is then to be declared again",
                place / f"{name}.json",
            )
    if read:
        yield fact("state", f"{read} documents", place)
