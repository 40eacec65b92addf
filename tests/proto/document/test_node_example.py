"""The engine in Node, written after PROTOCOL.md alone, on a real kvstore: it shares with the Python client."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from hashlib import shake_128

import pytest

from quire_kv import KVClient, pack_u32, unpack_u32
from tests.proto.kvstore import LAYOUT
from tests.support.kvstore import Kvstore
from tests.support.repository import ROOT
from tests.support.waits import wait_for

EXAMPLE = ROOT / "examples" / "node"
OLDEST = (20, 19)
PROMPT = [7 * i % 97 for i in range(2 * LAYOUT.block_size + 1)]


def no_node() -> str:
    """Why the example cannot run here, or ""."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "no node or npm on this machine"
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        return f"node {said.strip()} is older than {'.'.join(map(str, OLDEST))}"
    return ""


def test_its_packages_are_pinned_and_come_from_the_public_registry() -> None:
    """Exact versions, the same in the lockfile, each with a hash; no address of another registry."""
    wanted = json.loads((EXAMPLE / "package.json").read_text())["dependencies"]
    packages = json.loads((EXAMPLE / "package-lock.json").read_text())["packages"]
    locked = {name: entry for name, entry in packages.items() if name}

    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert all(entry["integrity"].startswith("sha512-") for entry in locked.values())
    sources = {entry["resolved"] for entry in locked.values() if "resolved" in entry}
    assert all(source.startswith("https://registry.npmjs.org/") for source in sources)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs it, but for the run directory, with its packages installed as the lockfile says."""
    if reason := no_node():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
    got = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=150, check=False)
    assert got.returncode == 0, got.stdout + got.stderr
    return ["node", str(folder / "engine.mjs")]


@pytest.mark.slow
@pytest.mark.process
def test_an_engine_in_node_shares_with_one_in_python(start_kvstore: Callable[..., Kvstore], engine: list[str]) -> None:
    """It writes, seals, forks, hits and leaves nothing behind; then Python hits its blocks and finds its bytes."""
    kvstore = start_kvstore(lease_ms=1000)
    command = [*engine, str(kvstore.run_dir)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    facts = json.loads(ran.stdout)

    assert re.fullmatch("/quire-[0-9a-f]{32}", facts.pop("arena"))
    assert facts == {
        "block_size": LAYOUT.block_size,
        "blocks": 32,
        "cold": 0,
        "sealed": 2,
        "copies": 1,
        "shared": 2,
        "branches_correct": True,
        "warm": 8,
        "warm_correct": True,
        "freed": [0, 0, 0],
        "lookup": 8,
        "references_left": 0,
    }
    with KVClient(kvstore.run_dir) as client:
        digests = client.chain("node", pack_u32(PROMPT)).digests()
        table = client.allocate(1, "node", len(PROMPT), digests)
        assert table.computed == 2 * LAYOUT.block_size
        assert kvstore.stats().counters["fenced"] == 0
        arena = client.map()
        assert isinstance(arena, memoryview)
        width = LAYOUT.head_dim * 4  # float32
        for plane in range(LAYOUT.num_layers * 2 * LAYOUT.num_kv_heads):
            for position, token in enumerate(PROMPT[: table.computed]):
                block = unpack_u32(table.blocks)[position // LAYOUT.block_size]
                start = ((plane * 32 + block) * LAYOUT.block_size + position % LAYOUT.block_size) * width
                expected = shake_128(f"{token} {position} {plane}".encode()).digest(width)
                assert arena[start : start + width] == expected, (plane, position)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    ("lease_ms", "says"), [(60_000, "the kvstore closed the side socket"), (4000, "the lease passed")]
)
def test_it_ends_with_the_kvstore_and_with_its_lease(
    start_kvstore: Callable[..., Kvstore], engine: list[str], lease_ms: int, says: str
) -> None:
    """The end of the side socket, or a loop that stood still for longer than the lease: one line, and it is over."""
    kvstore = start_kvstore(lease_ms=lease_ms)
    process = subprocess.Popen([*engine, str(kvstore.run_dir)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: any(s.sequences == 3 for s in kvstore.stats().sessions), "it waits for its heartbeats")
        if lease_ms > 4000:
            kvstore.kill()
        else:
            process.send_signal(signal.SIGSTOP)
            wait_for(lambda: kvstore.stats().counters["fenced"] == 1, "its session is fenced")
            process.send_signal(signal.SIGCONT)
        said = process.communicate(timeout=20)[1]
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, said) == (1, f"engine: {says}\n")
