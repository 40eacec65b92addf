"""What PROTOCOL.md says that a client needs and meets, on a real kvstore."""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path

import pytest

from quire_kv import KVClient
from quire_proto.client.requests import Session
from quire_proto.messages import Empty
from quire_proto.op_table import STATS
from tests.support.kvstore import Kvstore

SHM = Path("/dev/shm")


@pytest.mark.process
def test_the_side_socket_takes_seqpacket_only(shared_kvstore: Kvstore) -> None:
    """A stream socket cannot connect, whatever it would say afterwards."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        assert stream.connect_ex(str(shared_kvstore.run_dir / "attach.sock")) == errno.EPROTOTYPE


@pytest.mark.process
def test_the_arena_s_name_is_that_of_a_file_in_dev_shm(shared_kvstore: Kvstore) -> None:
    """It begins with a slash, as `shm_open` takes it; what is written to the file is in every mapping, and back."""
    with KVClient(shared_kvstore.run_dir) as client:
        handle, arena = client._held.attached.arena, client.map()
        assert isinstance(arena, memoryview)
        assert handle.type == "shm"
        assert re.fullmatch(r"/quire-[0-9a-f]{32}", handle.name)
        with (SHM / handle.name[1:]).open("r+b", buffering=0) as file:
            file.seek(handle.offset)
            file.write(b"a file")
            assert arena[:6] == b"a file"
            arena[:6] = b"mapped"
            file.seek(handle.offset)
            assert file.read(6) == b"mapped"


def test_numbers_of_unordered_requests_are_exact_as_doubles() -> None:
    """The library counts them from where a language whose numbers are doubles still tells neighbours apart."""
    session = Session()
    numbers = [session.request(STATS, Empty(), 1.0).number for _ in range(3)]

    assert numbers == [2**52, 2**52 + 1, 2**52 + 2]
    assert [int(float(number)) for number in numbers] == numbers
    assert max(numbers) < 2**53
