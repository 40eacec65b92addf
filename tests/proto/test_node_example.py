"""The engine in Node, written after PROTOCOL.md alone, on a real kvstore: it shares with the Python client."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from hashlib import shake_128
from pathlib import Path

import pytest

from quire_kv import KVClient, pack, unpack
from tests.proto.harness import LAYOUT, Kvstore

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
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


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(bool(no_node()), reason=no_node())
def test_an_engine_in_node_shares_with_one_in_python(start_kvstore: Callable[..., Kvstore], tmp_path: Path) -> None:
    """It writes, seals, forks, hits and leaves nothing behind; then Python hits its blocks and finds its bytes."""
    shutil.copytree(EXAMPLE, tmp_path / "node", ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
    got = subprocess.run(install, cwd=tmp_path / "node", capture_output=True, text=True, timeout=150, check=False)
    assert got.returncode == 0, got.stdout + got.stderr
    kvstore = start_kvstore(lease_ms=1000)
    command = ["node", tmp_path / "node" / "engine.mjs", kvstore.run_dir]
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
        digests = client.chain("node", pack(PROMPT)).digests()
        table = client.allocate(1, "node", len(PROMPT), digests)
        assert table.computed == 2 * LAYOUT.block_size
        assert kvstore.stats().counters["fenced"] == 0
        arena = client.map()
        assert isinstance(arena, memoryview)
        width = LAYOUT.head_dim * 4  # float32
        for plane in range(LAYOUT.num_layers * 2 * LAYOUT.num_kv_heads):
            for position, token in enumerate(PROMPT[: table.computed]):
                block = unpack(table.blocks)[position // LAYOUT.block_size]
                start = ((plane * 32 + block) * LAYOUT.block_size + position % LAYOUT.block_size) * width
                expected = shake_128(f"{token} {position} {plane}".encode()).digest(width)
                assert arena[start : start + width] == expected, (plane, position)
