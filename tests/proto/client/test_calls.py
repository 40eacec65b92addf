"""The named calls of both clients: each op has one, editors see its parameters, and a code is hard to overlook."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import quire_kv
from quire_kv import AsyncKVClient, KVClient, KVReader, Step, StepBuilder, pack_u32, results, unpack_u32
from quire_proto.client.client import KVClient as Behind
from quire_proto.op_table import OPS
from quire_proto.step.retire import RetireList
from quire_proto.wire import errors
from quire_proto.wire.errors import QuireError
from quire_proto.wire.u32 import unpack_rows
from tests.support.kvstore import Kvstore
from tests.support.repository import script

LIFE = {"attach", "ready", "heartbeat"}  # what makes and keeps a session: the constructor, and a thread
NAMED = {"publications": "fetch_publications"}  # ``publications`` is the list as last fetched
CLIENTS = [KVClient, AsyncKVClient]


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Defaults by name, without ``self``."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.name != "self"}


def fields(body: type) -> dict[str, Any]:
    """The same of a message."""
    return {
        field.name: inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(body)
    }


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", sorted(set(OPS) - LIFE))
def test_each_op_has_a_method_with_the_fields_of_its_body(client: type, name: str) -> None:
    """Names, order and defaults are those of the message, the return type is the reply, and there is a docstring."""
    op, method = OPS[name], getattr(client, NAMED.get(name, name))
    expected = {"message": inspect.Parameter.empty} if name == "step" else fields(op.body)
    hints = typing.get_type_hints(method)

    assert {k: v for k, v in parameters(method).items() if k != "timeout"} == expected
    assert list(parameters(method))[: len(expected)] == list(expected)
    assert hints.pop("return") is op.reply
    assert set(hints) >= set(expected)
    for field, told in ({} if name == "step" else typing.get_type_hints(op.body)).items():
        assert hints[field] in (told, Iterable[int]), field
    assert inspect.iscoroutinefunction(method) is (client is AsyncKVClient)
    assert method.__doc__


@pytest.mark.parametrize("begin", [KVClient, AsyncKVClient.connect])
def test_a_client_begins_with_the_fields_of_attach(begin: Callable[..., Any]) -> None:
    """What ``attach`` says of a session are arguments of the constructor; nonce and token are the library's."""
    told = parameters(begin)

    assert {name: told[name] for name in ("name", "layout", "gpu_uuid")} == {
        name: default for name, default in fields(OPS["attach"].body).items() if name not in ("nonce", "token")
    }


def test_both_clients_have_the_same_public_names() -> None:
    """Apart from how each begins and waits, whatever one offers the other does."""
    ours, awaited = ({n for n in dir(client) if not n.startswith("_")} for client in CLIENTS)

    assert ours ^ awaited == {"connect", "begin_wait"}
    assert {n for n in dir(KVReader) if not n.startswith("_")} < ours


def test_the_awaited_calls_are_made_from_the_blocking_ones() -> None:
    """The second file is what the script writes, and the comparison sees a change."""
    writer = script("write_aio_calls")
    planted = writer.SOURCE.read_text().replace("priority: int = 0", "priority: int = 1")

    assert writer.main(["--check"]) == 0
    assert writer.awaited(planted) != writer.TARGET.read_text()


def test_the_face_needs_neither_numpy_nor_torch() -> None:
    """Importing it loads pyzmq and msgpack, and nothing heavier, though this environment has all of it."""
    heavy = ("numpy", "torch", "transformers", "structlog", "quire_kvstore", "quire_engine")
    asked = f"import sys, quire_kv; print(*(n for n in {heavy} if n in sys.modules), 'zmq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True"]
    assert quire_kv.KVClient is Behind
    assert set(quire_kv.__all__) == {
        name
        for name, value in vars(quire_kv).items()
        if name == "__version__" or not (name.startswith("_") or inspect.ismodule(value))
    }


def test_the_face_has_what_its_calls_return_and_raise() -> None:
    """Each reply of a named call, and each error of the library, can be named with the face alone."""
    replies = {op.reply for name, op in OPS.items() if name not in LIFE}
    raised = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, QuireError)}

    assert {kind.__name__ for kind in replies | raised} <= set(quire_kv.__all__)


@pytest.mark.slow
def test_mypy_sees_the_signatures(tmp_path: Path) -> None:
    """In code that uses the installed package, a wrong name, a wrong type and a forgotten await are found."""
    (tmp_path / "use.py").write_text(
        "from quire_kv import AsyncKVClient, KVClient\n"
        "def f(client: KVClient) -> int:\n"
        "    client.allocate(1, tenant='a', tokens=9, digest=b'')\n"
        "    client.fill('1', 2)\n"
        "    return client.allocate(1, 'a', 9).computed\n"
        "async def g(client: AsyncKVClient) -> int:\n"
        "    return client.seal(1, 0, b'').sealed\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", tmp_path / "c", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    found = {line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line}
    assert found == {"3", "4", "7"}, done.stdout + done.stderr
    assert 'Unexpected keyword argument "digest"' in done.stdout
    assert 'maybe you forgot to use "await"' in done.stdout.lower()


TOKENS = list(range(10))  # blocks of 4: two full ones and a tail


def test_a_sequence_lives_by_single_calls(shared_kvstore: Kvstore) -> None:
    """Allocate, fill, seal, fork, copy, free, without a step built by hand; a second allocate hits what was sealed."""
    with KVClient(shared_kvstore.run_dir) as client:
        chain = client.chain("single", pack_u32(TOKENS))
        table = client.allocate(1, "single", 10, chain.digests())
        assert client.fill(1, 10).fills == bytes(1)
        assert client.seal(1, 0, chain.digests()).sealed == 2
        client.fork(1, [2], 10)
        ((copy, src, _, slots),) = unpack_rows(client.extend(2, 11).copies, 4)
        assert (src, slots) == (unpack_u32(table.blocks)[2], 2)
        client.copies_done([copy])
        assert client.allocate(3, "single", 10, chain.digests()).computed == 8
        client.free([1, 2, 3])


def test_a_duplicate_is_swapped_by_a_single_call(shared_kvstore: Kvstore) -> None:
    """Seal names the canonical block of another session's, and ``swap`` puts it into the table."""
    with KVClient(shared_kvstore.run_dir) as first, KVClient(shared_kvstore.run_dir) as second:
        digests = first.chain("twice", pack_u32(TOKENS)).digests()
        blocks = [unpack_u32(client.allocate(1, "twice", 10, digests).blocks)[0] for client in (first, second)]
        for client in (first, second):
            client.fill(1, 10)
        first.seal(1, 0, digests)
        assert unpack_rows(second.seal(1, 0, digests).canonical, 2)[0] == (0, blocks[0])
        second.swap(1, 0, blocks[0])
        with pytest.raises(quire_kv.Conflict, match="swap 1"):
            second.swap(1, 0, blocks[1])
        assert second.lookup(digests=digests[:32]).references != pack_u32([1])


ALL, SECOND = "all digests", "the second digest"  # placeholders: a chain is known to a session only
FAILING: list[tuple[str, tuple[Any, ...], type[quire_kv.RemoteError], str]] = [
    ("allocate", (9, "codes", 4 * 32), quire_kv.NoSpace, "NO_SPACE"),
    ("allocate", (1, "codes", 9), quire_kv.Conflict, "CONFLICT"),  # in use
    ("allocate", (9, "codes", 12, b"", "system", 99), quire_kv.Retry, "RETRY"),  # of another generation
    ("allocate", (9, "codes", 10, ALL, "", 0, 0, 0, 1), quire_kv.Claimed, "CLAIMED"),  # may_wait
    ("extend", (7, 9), quire_kv.NotFound, "NO_SUCH"),
    ("extend", (1, 4 * 32), quire_kv.NoSpace, "NO_SPACE"),
    ("fill", (7, 9), quire_kv.NotFound, "NO_SUCH"),
    ("fill", (1, 99), quire_kv.Conflict, "CONFLICT"),  # beyond the capacity
    ("seal", (1, 0, ALL), quire_kv.Conflict, "CONFLICT"),  # past the fill mark
    ("seal", (2, 1, SECOND), quire_kv.Unpublished, "UNPUBLISHED"),
    ("seal", (7, 0, ALL), quire_kv.NotFound, "NO_SUCH"),
    ("fork", (7, [9], 1), quire_kv.NotFound, "NO_SUCH"),
    ("fork", (1, [9], 5), quire_kv.Conflict, "CONFLICT"),  # past the fill mark
    ("swap", (7, 0, 0), quire_kv.NotFound, "NO_SUCH"),
    ("copies_done", ([5],), quire_kv.NotFound, "NO_SUCH"),
    ("free", ([7],), quire_kv.NotFound, "NO_SUCH"),
    ("offer", (7, bytes(16), 1000), quire_kv.NotFound, "NOT_FOUND"),  # an error of the wire
]


def filled_in(arguments: tuple[Any, ...], digests: bytes) -> list[Any]:
    """The arguments with digests for their placeholders."""
    return [{ALL: digests, SECOND: digests[32:]}.get(a, a) if isinstance(a, str) else a for a in arguments]


def test_the_blocking_client_raises_every_code(shared_kvstore: Kvstore) -> None:
    """A call about one thing that was not done raises the error of its code, and the session goes on."""
    with KVClient(shared_kvstore.run_dir) as client:
        digests = client.chain("codes", pack_u32(TOKENS)).digests()
        client.allocate(1, "codes", 10, digests)
        client.allocate(2, "codes", 10)
        client.fill(2, 10)
        for name, arguments, error, code in FAILING:
            with pytest.raises(error) as caught:
                getattr(client, name)(*filled_in(arguments, digests))
            assert (name, arguments, caught.value.code) == (name, arguments, code)
        assert client.fill(1, 10).fills == bytes(1)


def test_the_asyncio_client_raises_every_code(shared_kvstore: Kvstore) -> None:
    """The same, awaited."""

    async def main() -> None:
        async with await AsyncKVClient.connect(shared_kvstore.run_dir) as client:
            digests = (await client.chain("codes", pack_u32(TOKENS))).digests()
            await client.allocate(1, "codes", 10, digests)
            await client.allocate(2, "codes", 10)
            await client.fill(2, 10)
            for name, arguments, error, code in FAILING:
                with pytest.raises(error) as caught:
                    await getattr(client, name)(*filled_in(arguments, digests))
                assert (name, arguments, caught.value.code) == (name, arguments, code)
            assert (await client.fill(1, 10)).fills == bytes(1)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_an_error_says_what_to_do_about_it(shared_kvstore: Kvstore) -> None:
    """NoSpace has the numbers of the reply, Claimed the digests to wait for, NotFound the numbers it is about."""
    with KVClient(shared_kvstore.run_dir) as client:
        digests = client.chain("said", pack_u32(TOKENS)).digests()
        client.allocate(1, "said", 10, digests)
        with pytest.raises(quire_kv.NoSpace, match=r"allocate: 3 blocks missing \(pool\)") as full:
            client.allocate(2, "said", 4 * 32)
        with pytest.raises(quire_kv.Claimed, match="allocate") as claimed:
            client.allocate(2, "said", 10, digests, may_wait=1)
        with pytest.raises(quire_kv.NotFound, match="free 7, 8") as absent:
            client.free([7, 1, 8])

        assert (full.value.missing, full.value.scope, full.value.account) == (3, "pool", "")
        assert full.value.retry_after_ms > 0
        assert full.value.detail["missing"] == 3
        assert (claimed.value.computed, claimed.value.claimed) == (0, digests)
        assert absent.value.detail == {"numbers": [7, 8]}
        assert client.allocate(1, "said", 10).code == quire_kv.OK  # it was freed beside the other two
        assert shared_kvstore.stats().sessions[0].sequences == 1


def test_in_a_step_codes_are_results(shared_kvstore: Kvstore) -> None:
    """One sequence without space, or that is not there, is no error of the batch it is in."""
    with KVClient(shared_kvstore.run_dir) as client:
        client.allocate(1, "step", 9)
        client.allocate(2, "step", 9)
        builder = StepBuilder(RetireList())
        builder.fill(7, 3)
        builder.fill(1, 9)
        builder.extend(1, 4 * 32)
        builder.allocate(quire_kv.Allocate(1, "step", 9))
        message = builder.build()
        assert message is not None
        told = results(message, client.step(message))

        assert told.fills == {7: quire_kv.NO_SUCH, 1: quire_kv.OK}
        assert told.shortages[1].scope == "pool"
        assert told.allocates[1].code == quire_kv.CONFLICT
        assert client.step(Step(releases=pack_u32([7]))).releases == bytes([quire_kv.NO_SUCH])
