"""Directories of other users: what is not ours is neither removed nor trusted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from quire_proto.client.client import KVReader
from quire_proto.private_dir import NotPrivate
from tests.services.stack.test_rundir import tree
from tests.support.quire_command import Quire, prepared

SERVE = [sys.executable, "-P", "-m", "quire_services.cli", "serve"]


@pytest.fixture
def broken_model(tmp_path: Path) -> Path:
    """A model directory that no stack starts with."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    return tmp_path / "model"


@pytest.mark.process
@pytest.mark.source("ModelOriented/xai2shiny#44", "valvesoftware/steam-for-linux#3671")
def test_a_failed_start_leaves_the_users_directory(tmp_path: Path, broken_model: Path) -> None:
    """A directory of the user's as run and state directory at once: all that lay there lies there afterwards."""
    home = tmp_path / "home"
    (home / "publications" / "2026").mkdir(parents=True)
    home.chmod(0o700)
    (home / "publications" / "2026" / "thesis.tex").write_text("years of work")
    (home / "root.key").write_text("0123456789abcdef" * 2)
    (home / "quotas.json").write_text('{"version": 1, "tenants": {}}')
    for file in home.glob("*.*"):
        file.chmod(0o600)
    before = tree(home)

    for flags in ([], [f"--state-dir={home}"]):
        told = subprocess.run(
            [*SERVE, f"--model={broken_model}", f"--run-dir={home}", "--port=0", *flags],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.returncode == 1
        assert tree(home) == before


@pytest.mark.source("mobydeck/atch#38")
@pytest.mark.parametrize("how", ["another user's", "a link", "open to others"])
def test_a_run_directory_that_somebody_else_made_is_told_nothing(
    quire: Quire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Another user who is first where clients look for a stack gets neither a prompt nor a question, and no stack."""
    run_dir, system = tmp_path / "run", tmp_path / "system.txt"
    system.write_text("w1 w2 a secret")
    (tmp_path / "real").mkdir(mode=0o700)
    if how == "a link":
        run_dir.symlink_to(tmp_path / "real")
    else:
        run_dir.mkdir(mode=0o755 if how == "open to others" else 0o700)
    prepared(run_dir, model_dir="/nowhere")
    os.mknod(run_dir / "kvstore.sock", stat.S_IFSOCK | 0o600)
    if how == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    words = {"another user's": "another user", "a link": "symbolic link", "open to others": "0700"}[how]
    before = sorted(os.listdir(run_dir))

    for arguments in (
        ("prefix", "publish", f"--file={system}", "--domain=public"),
        ("prefix", "list"),
        ("group", "list"),
        ("tenant", "list"),
        ("status",),
    ):
        quire(*arguments, f"--run-dir={run_dir}").complains(words)
    with pytest.raises(NotPrivate, match=words):
        KVReader(run_dir)
    ran = quire("kvstore", "--arena=shm", f"--run-dir={run_dir}", f"--prepared={prepared(tmp_path)}")
    assert (ran.code, words in ran.err) == (1, True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    quire("serve", f"--model={tmp_path / 'model'}", f"--run-dir={run_dir}", "--port=0").complains(words)
    assert sorted(os.listdir(run_dir)) == before


@pytest.mark.source("mobydeck/atch#38")
def test_only_sockets_are_removed_where_one_is_bound(quire: Quire, tmp_path: Path) -> None:
    """A file under a socket's name stops a kvstore that is started by hand, and stays."""
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o700)
    file = prepared(run_dir)
    for name in ("attach.sock", "kvstore.sock"):
        (run_dir / name).write_text("mine")
        ran = quire("kvstore", "--arena=shm", f"--run-dir={run_dir}", f"--prepared={file}", "--blocks=64")
        assert (ran.code, name in ran.err, "Traceback" in ran.err) == (1, True, False)
        assert (run_dir / name).read_text() == "mine"
        (run_dir / name).unlink()
