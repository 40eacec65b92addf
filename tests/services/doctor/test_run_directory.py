"""`quire doctor` on run directories: privacy, sockets, and what the kvstore keeps."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from quire_services.doctor.checks.run_directory import check_run_directory, check_state
from tests.support.doctor import AS_ROOT, found, ids, only

NOBODY = 65534


def test_a_directory_that_is_open_to_others(run_dir: Path) -> None:
    """Mode, a link in its place, and another owner; the fix says what to do about each."""
    assert ids(found(check_run_directory, run_dir=run_dir)) == []
    run_dir.chmod(0o755)
    assert only(found(check_run_directory, run_dir=run_dir), "run-dir-not-private").fix == f"chmod 700 {run_dir}"
    run_dir.chmod(0o700)
    link = run_dir.with_name("link")
    link.symlink_to(run_dir)
    assert ids(found(check_run_directory, run_dir=link)) == ["run-dir-not-private"]
    if AS_ROOT:
        os.chown(run_dir, NOBODY, NOBODY)
        assert f"#{NOBODY}" in only(found(check_run_directory, run_dir=run_dir), "run-dir-not-private").fix


def test_a_path_too_long_for_a_socket(tmp_path: Path, run_dir: Path) -> None:
    """Found before anything tries to bind."""
    assert "run-dir-too-long" in ids(found(check_run_directory, run_dir=tmp_path / ("x" * 120)))
    assert "run-dir-too-long" not in ids(found(check_run_directory, run_dir=run_dir))


def test_a_socket_whose_process_is_gone(run_dir: Path) -> None:
    """Of both kinds; while something listens nothing is found, and the listener hears nothing."""
    for name, kind in (("kvstore.sock", socket.SOCK_STREAM), ("attach.sock", socket.SOCK_SEQPACKET)):
        path = run_dir / name
        with socket.socket(socket.AF_UNIX, kind) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen()
            listener.setblocking(False)
            assert ids(found(check_run_directory, run_dir=run_dir)) == []
            assert _nobody_waits(listener)
        assert only(found(check_run_directory, run_dir=run_dir), "stale-socket").where == str(path)
        path.unlink()


def _nobody_waits(listener: socket.socket) -> bool:
    try:
        listener.accept()
    except BlockingIOError:
        return True
    return False


def test_a_socket_that_others_may_use(run_dir: Path) -> None:
    """Mode 0666 is found, 0600 is none."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "gateway.sock"))
        listener.listen()
        (run_dir / "gateway.sock").chmod(0o666)
        assert "0666" in only(found(check_run_directory, run_dir=run_dir), "socket-permissions").seen
        (run_dir / "gateway.sock").chmod(0o600)
        assert ids(found(check_run_directory, run_dir=run_dir)) == []


def test_a_file_in_the_place_of_a_socket(run_dir: Path) -> None:
    """It is to be moved away, not removed."""
    (run_dir / "kvstore.sock").write_text("mine")
    assert only(found(check_run_directory, run_dir=run_dir), "foreign-file").fix.startswith("mv ")


def test_a_root_key_that_others_may_read(run_dir: Path) -> None:
    """Or one of the wrong size; nothing of the key is told."""
    key = run_dir / "root.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    assert ids(found(check_state, run_dir=run_dir)) == []
    key.chmod(0o644)
    assert "kkkk" not in str(only(found(check_state, run_dir=run_dir), "root-key-unusable"))
    key.chmod(0o600)
    key.write_bytes(b"k" * 8)
    assert ids(found(check_state, run_dir=run_dir)) == ["root-key-unusable"]


def test_a_document_that_was_cut_off(tmp_path: Path, run_dir: Path) -> None:
    """In the run directory, and in a state directory of its own."""
    for place in (run_dir, tmp_path / "state"):
        place.mkdir(mode=0o700, exist_ok=True)
        file = place / "quotas.json"
        file.write_text('{"version": 1}')
        file.chmod(0o600)
        flags = {"run_dir": run_dir} | ({} if place == run_dir else {"state_dir": place})
        assert ids(found(check_state, **flags)) == []
        file.write_text('{"version"')
        assert only(found(check_state, **flags), "state-unusable").where == str(file)
