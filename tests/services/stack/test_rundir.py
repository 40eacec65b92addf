"""The run directory: whatever lies in it under whatever name, only what a stack made is removed."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from quire_kvstore.host.root_key import root_key
from quire_kvstore.host.state_dir import StateDir
from quire_services.config.prepared_file import PREPARED_FILE
from quire_services.config.process_table import PROCESSES_FILE
from quire_services.gateway.admin import token as admin_token
from quire_services.stack.rundir import KVSTORE_FILES, MARKER_FILE, STACK_FILES, RunDir, RunDirError
from quire_services.stack.state_tree import STATE
from tests.support.quire_command import prepared


def crash(run_dir: RunDir) -> None:
    """As when the process that holds it is killed."""
    os.close(run_dir._fd)


def tree(path: Path) -> dict[str, str]:
    """Everything below a directory."""
    return {str(p.relative_to(path)): p.read_text("latin-1") if p.is_file() else "" for p in sorted(path.rglob("*"))}


def listen(path: Path) -> None:
    """Leave a socket, as a killed process does."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))


def fill(run_dir: RunDir) -> None:
    """All that the processes of a stack put there."""
    for name in ("kvstore", "attach", "weights", "gateway", "events", "events-replay", "logs"):
        listen(run_dir.path / f"{name}.sock")
    prepared(run_dir.path)
    run_dir.make_token()
    (run_dir.path / "arena.json").write_text(json.dumps({"shm": "quire-" + "0" * 32, "pid": 1}))
    for name in ("mappers.json", "weights-mappers.json"):
        (run_dir.path / name).write_text(json.dumps({"machine": "m", "pid_namespace": 1, "mappers": []}))
    root_key(run_dir.path / STATE)
    state = StateDir(run_dir.path / STATE)
    state.write("groups", {"joined": []})
    state.write("publications/agent", {"domain": "public"})


@pytest.mark.parametrize("crashed", [False, True])
def test_all_that_a_stack_makes_goes_with_it(tmp_path: Path, crashed: bool) -> None:
    """Sockets, documents, token and state, and the directory itself; after a crash, with the stack that comes next."""
    run_dir = RunDir(tmp_path / "run")
    fill(run_dir)
    if crashed:
        crash(run_dir)
        run_dir = RunDir(tmp_path / "run")
        assert set(run_dir.stale) == {*STACK_FILES} - {*KVSTORE_FILES, "processes.json"}
        assert (tmp_path / "run" / STATE / "root.key").exists()  # the next kvstore's

    assert run_dir.close() == []
    assert not (tmp_path / "run").exists()


def test_a_directory_of_the_user_stays(tmp_path: Path) -> None:
    """It was there before, so it is there afterwards, empty or not; a crash in between changes nothing."""
    path = tmp_path / "mine"
    path.mkdir(mode=0o700)
    for notes in (False, True):
        if notes:
            (path / "notes").write_text("mine")
        run_dir = RunDir(path)
        fill(run_dir)
        crash(run_dir)
        RunDir(path).close()
        assert tree(path) == ({"notes": "mine"} if notes else {})


@pytest.mark.parametrize("name", [*STACK_FILES, MARKER_FILE, STATE])
def test_files_of_the_user_under_our_names(tmp_path: Path, name: str) -> None:
    """They are refused before anything is touched: files, directories, sockets and links alike."""
    target = tmp_path / "target"
    target.write_text("mine")
    for number, make in enumerate(
        (lambda p: p.write_text("mine"), lambda p: p.touch(), Path.mkdir, listen, lambda p: p.symlink_to(target))
    ):
        path = tmp_path / str(number)
        path.mkdir(mode=0o700)
        make(path / name)
        before = (path / name).lstat()
        with pytest.raises(RunDirError, match=f"{name} was not made by this stack"):
            RunDir(path)
        assert os.listdir(path) == [name]
        assert (path / name).lstat() == before
    assert target.read_text() == "mine"


def test_a_file_of_ours_that_the_user_replaced(tmp_path: Path) -> None:
    """Whatever has come into the place of what the stack made stays, at the stop and at the next start."""
    for crashed in (False, True):
        path = tmp_path / f"run-{crashed}"
        run_dir = RunDir(path)
        fill(run_dir)
        for name in STACK_FILES:
            (path / name).unlink()
            (path / name).write_text("mine")
        (path / STATE / "root.key").unlink()
        (path / STATE / "root.key").write_text("mine")
        (path / STATE / "publications" / "thesis.tex").write_text("mine")
        if crashed:
            crash(run_dir)
            before = tree(path)
            for _ in range(2):  # a refused start changes nothing either
                with pytest.raises(RunDirError, match=r"was not made by this stack"):
                    RunDir(path)
                assert tree(path) == before
            continue
        assert run_dir.close() == sorted([*STACK_FILES, STATE])
        left = tree(path)
        assert {name for name, text in left.items() if text == "mine"} == {
            *STACK_FILES, "state/root.key", "state/publications/thesis.tex",
        }  # fmt: skip


def test_a_state_directory_of_the_users_choice(tmp_path: Path) -> None:
    """The run directory itself, one inside it, even under our own name: never touched."""
    for number, inside in enumerate((".", "mine", STATE)):
        path = tmp_path / str(number)
        run_dir = RunDir(path, own_state=False)
        (path / inside).mkdir(mode=0o700, exist_ok=True)
        root_key(path / inside)
        StateDir(path / inside).write("publications/agent", {"domain": "public"})
        before = tree(path / inside)
        for name in (MARKER_FILE, PROCESSES_FILE):
            before.pop(name, None)
        run_dir.close()
        assert tree(path / inside) == before
        RunDir(path, own_state=False).close()
        assert tree(path / inside) == before


def test_a_state_directory_left_by_a_killed_stack(tmp_path: Path) -> None:
    """It is taken over by the next; one that another configuration names stays."""
    first = RunDir(tmp_path / "run")
    key = root_key(tmp_path / "run" / STATE)
    crash(first)
    second = RunDir(tmp_path / "run")
    assert root_key(tmp_path / "run" / STATE) == key
    crash(second)
    assert RunDir(tmp_path / "run", own_state=False).close() == [STATE]
    assert root_key(tmp_path / "run" / STATE) == key


def test_links_and_files_are_no_run_directory(tmp_path: Path) -> None:
    """A link is refused even where it leads to a good directory, and a file is no directory."""
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name, words in (("link", "symbolic link"), ("dangling", "symbolic link"), ("file", "no directory")):
        with pytest.raises(RunDirError, match=words):
            RunDir(tmp_path / name)
    assert os.listdir(target) == []


def test_the_token_is_known_by_its_digest(tmp_path: Path) -> None:
    """The token that the stack made goes; one of the operator's own in its place stays."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.make_token()
    file = tmp_path / "run" / admin_token.TOKEN_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() not in (tmp_path / "run" / MARKER_FILE).read_text()
    file.write_text("the operator's own token")
    assert run_dir.close() == [admin_token.TOKEN_FILE]


def test_two_at_once(tmp_path: Path) -> None:
    """The second is told which process has it; the prepared file of the first is not looked at."""
    first = RunDir(tmp_path / "run")
    prepared(tmp_path / "run")
    with pytest.raises(RunDirError, match=f"another stack .pid {os.getpid()}. runs in"):
        RunDir(tmp_path / "run")
    assert (tmp_path / "run" / PREPARED_FILE).exists()
    first.close()
