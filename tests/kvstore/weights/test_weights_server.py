"""Weights of a GPU between real processes: descriptors, mappings and deaths are real, the driver is recorded."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from quire_proto.messages import weights as w
from quire_proto.messages.query import WeightsInfo
from quire_proto.weights.connection import WeightsConnection
from quire_proto.weights.mapping import WeightsMapping
from quire_proto.weights.packets import MAX_PACKET, TENSORS_A_PACKET, declarations, encode_packet
from quire_proto.wire.codec import encode
from quire_proto.wire.envelope import VERSION
from quire_proto.wire.errors import BadRequest, Conflict, KvstoreUnreachable, MapError, RemoteError
from quire_services.cli.text_table import weights_table
from quire_services.gateway.exposition.kvstore_readings import kvstore_readings
from tests.kvstore.host.cuda_arena.recorder import Recorder
from tests.kvstore.host.cuda_arena.stack import RecordedKvstore
from tests.support.children import python_child
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
SIZE, KEY = 5000, b"checkpoint, dtype, packing, version"
TENSORS = (w.WeightTensor("a", "uint8", (16,), 0), w.WeightTensor("b", "float32", (2, 2), 256))
TEXT = b"written once, read by all"

CHILD = """
import ctypes, sys, time
from tests.kvstore.host.cuda_arena.recorder import Recorder
sys.modules["cuda.bindings.driver"] = Recorder(mapped=True)
from quire_proto.messages import weights as w
from quire_proto.weights.connection import WeightsConnection
from quire_proto.weights.mapping import WeightsMapping
run_dir, key = sys.argv[1], sys.argv[2].encode()
connection = WeightsConnection(run_dir, 20)
told = connection.claim(key)
"""
HALF = (
    CHILD
    + """
memory = connection.make(5000)
mapping = WeightsMapping(memory.handle, connection.fd, read_only=False)
ctypes.memset(mapping.view.pointer, 255, 5000)
print("half", flush=True)
time.sleep(600)
"""
)
READER = (
    CHILD
    + """
mapping = WeightsMapping(told.handle, connection.fd, read_only=True)
print("reads", flush=True)
if sys.argv[3] == "writes":
    ctypes.memset(mapping.view.pointer, 255, 1)
time.sleep(600)
"""
)


def process(
    code: str, kvstore: RecordedKvstore, says: str, *more: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process with weights of ``KEY``."""
    return python_child(code, str(kvstore.run_dir), KEY.decode(), *more, says=says)


def arenas(kvstore: RecordedKvstore) -> list[tuple[str, int]]:
    """(state, readers) of all."""
    return [(one.state, one.readers) for one in kvstore.stats().weights]


def written(kvstore: RecordedKvstore, text: bytes = TEXT) -> tuple[WeightsConnection, WeightsMapping]:
    """Weights that this process has written and sealed."""
    connection = WeightsConnection(kvstore.run_dir, 20)
    assert isinstance(connection.claim(KEY), w.YourWeights)
    memory = connection.make(SIZE)
    mapping = WeightsMapping(memory.handle, connection.fd, read_only=False)
    ctypes.memmove(mapping.view.pointer, text, len(text))
    mapping.protect()
    connection.seal(TENSORS)
    return connection, mapping


def leave(connection: WeightsConnection, mapping: WeightsMapping) -> None:
    """Unmap and say so."""
    mapping.close()
    connection.release()


def test_what_one_process_writes_the_next_reads_in_the_same_memory(
    kvstore: RecordedKvstore, recorder: Recorder
) -> None:
    """The first writes and seals; the second gets the manifest and sees the bytes; status counts both."""
    kvstore.start_with("cuda-vmm-fd")
    connection, mapping = written(kvstore)
    second = WeightsConnection(kvstore.run_dir, 20)
    read = second.claim(KEY)
    assert isinstance(read, w.ReadWeights)
    assert second.manifest(read) == TENSORS
    again = WeightsMapping(read.handle, second.fd, read_only=True)
    assert again.view.pointer != mapping.view.pointer
    assert ctypes.string_at(again.view.pointer, len(TEXT)) == TEXT
    assert (mapping.read_only, again.read_only) == (True, True)
    stats = kvstore.stats()
    (row,) = stats.weights
    assert weights_table(stats.weights).splitlines()[1].split() == [
        KEY[:6].hex(), "sealed", "cuda-vmm-fd", "5000", "2", "0", "-",
    ]  # fmt: skip
    page = asyncio.run(kvstore_readings(stats).text()).decode()
    assert 'quire_kvstore_weights_bytes{state="sealed"} 5000' in page
    made = [line for line in kvstore.calls.read_text().splitlines() if line.endswith(" weights")]
    assert "cuMemCreate weights" in made, "memory is made on the thread of weights"
    assert row == WeightsInfo(KEY, "sealed", "cuda-vmm-fd", SIZE, 2, readers=2)
    leave(second, again)
    leave(connection, mapping)
    wait_for(lambda: arenas(kvstore) == [("idle", 0)], "no process maps it")


def test_a_reader_that_writes_dies_and_changes_nothing(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """Memory behind a descriptor is mapped read-only: a stray write ends the one process that makes it."""
    kvstore.start_with("cuda-vmm-fd")
    connection, mapping = written(kvstore)
    with process(READER, kvstore, "reads", "writes") as stray:
        assert stray.wait(20) == -signal.SIGSEGV
    assert ctypes.string_at(mapping.view.pointer, len(TEXT)) == TEXT
    leave(connection, mapping)


def test_a_driver_that_maps_for_writing_only_is_taken_as_it_is(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """Where a mapping cannot be read-only it is what it can be, and says so."""
    kvstore.start_with("cuda-vmm-fd")
    connection, mapping = written(kvstore)
    refused: list[str] = []

    def answer(name: str, arguments: Any) -> Any:
        if name == "cuMemSetAccess" and int(arguments[2][0].flags) == 1:
            refused.append(name)
            return "NOT_SUPPORTED"
        return Recorder._answer(recorder, name, arguments)

    recorder._answer = answer  # type: ignore[method-assign]
    second = WeightsConnection(kvstore.run_dir, 20)
    read = second.claim(KEY)
    assert isinstance(read, w.ReadWeights)
    again = WeightsMapping(read.handle, second.fd, read_only=True)
    assert (again.read_only, refused) == (False, ["cuMemSetAccess"])
    leave(second, again)
    leave(connection, mapping)


def test_kill_9_of_the_writer_gives_the_next_one_memory_without_a_trace_of_it(
    kvstore: RecordedKvstore, recorder: Recorder
) -> None:
    """The waiter is told within moments, and nothing of the dead one is held."""
    kvstore.start_with("cuda-vmm-fd")
    waiting = WeightsConnection(kvstore.run_dir, 20)
    with process(HALF, kvstore, "half") as writer:
        told = waiting.claim(KEY)
        assert told == w.WaitWeights(writer.pid)
        assert [(one.state, one.waiting) for one in kvstore.stats().weights] == [("claimed", 1)]
        writer.kill()
    assert isinstance(waiting.wait(20), w.YourWeights)
    memory = waiting.make(SIZE)
    mapping = WeightsMapping(memory.handle, waiting.fd, read_only=False)
    assert ctypes.string_at(mapping.view.pointer, SIZE) == bytes(SIZE)
    wait_for(lambda: arenas(kvstore) == [("claimed", 0)], "the dead one's memory is gone")
    leave(waiting, mapping)
    wait_for(lambda: not kvstore.stats().weights, "nothing is left")


def test_a_killed_reader_leaves_the_arena_for_one_that_is_started_again(
    kvstore: RecordedKvstore, recorder: Recorder
) -> None:
    """It is idle then, and the next process reads at once."""
    kvstore.start_with("cuda-vmm-fd")
    leave(*written(kvstore))
    with process(READER, kvstore, "reads", "holds") as reader:
        wait_for(lambda: arenas(kvstore) == [("sealed", 1)], "it reads")
        reader.kill()
    wait_for(lambda: arenas(kvstore) == [("idle", 0)], "its reference is back")
    with process(READER, kvstore, "reads", "holds"):
        assert arenas(kvstore) == [("sealed", 1)]


def test_weights_that_no_engine_maps_go_after_their_time(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """--weights-keep-s bounds how long memory lies there for nothing."""
    kvstore._command.append("--weights-keep-s=0.2")
    kvstore.start_with("cuda-vmm-fd")
    leave(*written(kvstore))
    wait_for(lambda: not kvstore.stats().weights, "it is dropped")


def test_memory_that_is_not_there_is_refused_with_what_helps(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """Oversized weights are an answer, and the kvstore goes on."""
    kvstore.start_with("cuda-vmm-fd")
    connection = WeightsConnection(kvstore.run_dir, 20)
    connection.claim(KEY)
    with pytest.raises(RemoteError, match=r"NO_SPACE: the weights need .*--kv-gib"):
        connection.make(1 << 40)
    connection.release()
    assert kvstore.stats().weights == ()


def test_after_a_restart_engines_bring_what_they_map_and_others_read_it(
    kvstore: RecordedKvstore, recorder: Recorder
) -> None:
    """Memory behind a descriptor outlives its exporter: the new kvstore takes it over, by its id only once."""
    kvstore.start_with("cuda-vmm-fd")
    connection, mapping = written(kvstore)
    second = WeightsConnection(kvstore.run_dir, 20)
    read = second.claim(KEY)
    assert isinstance(read, w.ReadWeights)
    kvstore.kill()
    wait_for(connection.closed, "the end is seen")
    kvstore.start_with("cuda-vmm-fd")
    for one in (connection, second):
        back = WeightsConnection(kvstore.run_dir, 20)
        back.bring(KEY, read.arena, SIZE, TENSORS, one.fd)
        assert ctypes.string_at(mapping.view.pointer, len(TEXT)) == TEXT
        one.close()
        if one is connection:
            connection = back
        else:
            second = back
    assert arenas(kvstore) == [("sealed", 2)]
    third = WeightsConnection(kvstore.run_dir, 20)
    found = third.claim(KEY)
    assert isinstance(found, w.ReadWeights)
    assert third.manifest(found) == TENSORS
    again = WeightsMapping(found.handle, third.fd, read_only=True)
    assert ctypes.string_at(again.view.pointer, len(TEXT)) == TEXT
    stranger = WeightsConnection(kvstore.run_dir, 20)
    with pytest.raises(Conflict, match="another arena of this key"):
        stranger.bring(KEY, bytes(16), SIZE, TENSORS, third.fd)
    stranger.close()
    leave(third, again)
    second.release()
    leave(connection, mapping)


def test_ipc_weights_end_with_their_kvstore_and_their_processes_are_waited_for(
    kvstore: RecordedKvstore, recorder: Recorder
) -> None:
    """The log says what IPC means; nothing can be brought; the next kvstore makes no memory before the old are gone."""
    kvstore.start_with("cuda-ipc")
    assert "all compute with" in kvstore.events("weights_writable")[0]["meaning"]
    with process(
        CHILD + "connection.make(5000); print('made', flush=True); time.sleep(600)", kvstore, "made"
    ) as writer:
        kvstore.kill()
        kvstore.start_with("cuda-ipc", grace_ms=300)
        assert writer.wait(20) == -signal.SIGKILL
    fd = os.memfd_create("device memory")
    connection = WeightsConnection(kvstore.run_dir, 20)
    with pytest.raises(BadRequest, match="where arenas are descriptors"):
        connection.bring(KEY, bytes(16), SIZE, TENSORS, fd)
    connection.close()
    os.close(fd)


def test_without_sharing_or_a_gpu_there_is_no_socket(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """--share-weights=false: engines load weights of their own."""
    kvstore._command.append("--share-weights=false")
    kvstore.start_with("cuda-vmm-fd")
    assert not (kvstore.run_dir / "weights.sock").exists()
    with pytest.raises(KvstoreUnreachable):
        WeightsConnection(kvstore.run_dir, 0.1)


HOSTILE = {
    "no MessagePack": b"\xc1",
    "no map": encode([1]),
    "unknown type": encode({"type": "rm"}),
    "unknown field": encode({"type": "claim", "version": VERSION, "key": KEY, "more": 1}),
    "another version": encode_packet(w.ClaimWeights(VERSION + 1, KEY)),
    "an empty key": encode_packet(w.ClaimWeights(VERSION, b"")),
    "a long key": encode_packet(w.ClaimWeights(VERSION, bytes(65))),
    "make without claim": encode_packet(w.MakeWeights(5)),
    "seal without claim": encode_packet(w.SealWeights(0)),
    "declare without claim": declarations(TENSORS)[0],
    "bring without descriptor": encode_packet(w.BringWeights(VERSION, KEY, bytes(16), SIZE, 0)),
    "an answer": encode_packet(w.SealedWeights()),
    "too long": encode({"type": "claim", "version": VERSION, "key": bytes(MAX_PACKET)}),
}


def test_hostile_packets_are_refused_and_harm_no_other(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """Each gets one refusal and the end of its connection; a writer beside them goes on."""
    kvstore.start_with("cuda-vmm-fd")
    connection = WeightsConnection(kvstore.run_dir, 20)
    connection.claim(KEY)
    for what, packet in HOSTILE.items():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hostile:
            hostile.settimeout(20)
            hostile.connect(str(kvstore.run_dir / "weights.sock"))
            hostile.send(packet)
            assert b"refused" in hostile.recv(MAX_PACKET), what
            assert hostile.recv(MAX_PACKET) == b"", what
    memory = connection.make(SIZE)
    mapping = WeightsMapping(memory.handle, connection.fd, read_only=False)
    connection.seal(TENSORS)
    assert arenas(kvstore) == [("sealed", 1)]
    leave(connection, mapping)


def test_a_descriptor_of_anything_else_is_not_taken_for_memory(
    kvstore: RecordedKvstore, recorder: Recorder, tmp_path: Path
) -> None:
    """A file that is brought as an arena is refused by the driver, and one beside a claim by its place."""
    kvstore.start_with("cuda-vmm-fd")
    with (tmp_path / "file").open("wb") as file:
        connection = WeightsConnection(kvstore.run_dir, 20)
        with pytest.raises(BadRequest, match="no device memory"):
            connection.bring(KEY, bytes(16), SIZE, TENSORS, file.fileno())
        connection.close()
        connection = WeightsConnection(kvstore.run_dir, 20)
        connection._send(w.ClaimWeights(VERSION, KEY), file.fileno())
        with pytest.raises(BadRequest, match="comes with bring"):
            connection.wait(20)
        connection.close()
    assert kvstore.stats().weights == ()


BAD = {
    "beyond the end": (w.WeightTensor("a", "uint8", (SIZE + 1,), 0),),
    "overflowing": (w.WeightTensor("a", "float32", (2**62, 2**62), 0),),
    "unaligned": (w.WeightTensor("a", "uint8", (1,), 1),),
    "unknown dtype": (w.WeightTensor("a", "pickle", (1,), 0),),
    "twice": (TENSORS[0], TENSORS[0]),
    "overlapping": (TENSORS[1], w.WeightTensor("c", "uint8", (300,), 0)),
    "no name": (w.WeightTensor("", "uint8", (1,), 0),),
}


def test_a_manifest_that_cannot_be_true_is_not_sealed(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """The writer is refused, and its claim passes on to the one that waits."""
    kvstore.start_with("cuda-vmm-fd")
    writer = WeightsConnection(kvstore.run_dir, 20)
    assert isinstance(writer.claim(KEY), w.YourWeights)
    for what, tensors in BAD.items():
        waiting = WeightsConnection(kvstore.run_dir, 20)
        assert isinstance(waiting.claim(KEY), w.WaitWeights), what
        writer.make(SIZE)
        with pytest.raises(BadRequest):
            writer.seal(tensors)
        writer.close()
        assert isinstance(waiting.wait(20), w.YourWeights), what
        writer = waiting
    writer.release()


def test_a_large_manifest_reaches_a_reader_that_is_slow(kvstore: RecordedKvstore, recorder: Recorder) -> None:
    """Tens of thousands of tensors, more than a socket holds: the reader takes them as it comes to it."""
    many = tuple(w.WeightTensor(f"layers.{n}.{'x' * 400}", "uint8", (1,), 0) for n in range(40 * TENSORS_A_PACKET))
    kvstore.start_with("cuda-vmm-fd")
    connection = WeightsConnection(kvstore.run_dir, 20)
    connection.claim(KEY)
    connection.make(SIZE)
    connection.seal(many)
    second = WeightsConnection(kvstore.run_dir, 20)
    read = second.claim(KEY)
    assert isinstance(read, w.ReadWeights)
    assert arenas(kvstore) == [("sealed", 2)]  # the kvstore waits for no reader
    assert second.manifest(read) == many
    second.release()
    connection.release()


def test_a_handle_of_another_kind_is_not_mapped_as_weights(recorder: Recorder) -> None:
    """The pool's memory is never taken for weights."""
    from quire_proto.wire.handles import CudaVmmFdHandle, ShmHandle

    for handle in (CudaVmmFdHandle(8, "GPU-0", 0, 0), ShmHandle("/quire", 8, kind="weights")):
        with pytest.raises(MapError, match="none of weights"):
            WeightsMapping(handle, -1, read_only=True)
