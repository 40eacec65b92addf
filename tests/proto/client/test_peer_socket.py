"""Who listens at a socket, asked without being heard."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from quire_proto.peer_socket import socket_state


def test_a_listener_is_alive_and_hears_nothing(tmp_path: Path) -> None:
    """Asked while it listens, it has no connection to accept; once it is closed its name is that of a dead one."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert socket_state(path) == "alive", "bound: it is about to listen"
        listener.listen(1)
        assert [socket_state(path) for _ in range(5)] == ["alive"] * 5, "a backlog of one is not filled by asking"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert socket_state(path) == "dead"


def test_what_is_no_socket_has_no_state(tmp_path: Path) -> None:
    """Neither a file, nor a name that is not there."""
    (tmp_path / "file").write_text("")
    assert [socket_state(tmp_path / name) for name in ("file", "nothing")] == ["", ""]
