"""Generated traces: the format's promises, and the statistics they are shaped after."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean, median

import pytest

from bench.load import trace_format
from bench.load.trace_format import Request
from bench.load.traces import KINDS, generate
from tests.support.repository import ROOT

COUNT = 3000


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Each family of workloads."""
    return str(request.param)


@pytest.fixture(scope="module")
def trace(kind: str) -> list[Request]:
    """A trace of that family."""
    return generate(kind, COUNT, 1)


def _ids(request: Request) -> list[int]:
    return [block for first, count in request.runs for block in range(first, first + count)]


def test_a_block_always_has_the_same_predecessor(trace: list[Request]) -> None:
    """An id implies its whole prefix: the blocks form a prefix tree."""
    before: dict[int, int] = {}
    for request in trace[:1000]:
        ids = _ids(request)
        for previous, block in zip([-1, *ids], ids, strict=False):
            assert before.setdefault(block, previous) == previous


def test_lengths_agree_with_blocks(kind: str, trace: list[Request]) -> None:
    """Chat counts a partial last block, agents count full blocks only; time never goes back."""
    size = KINDS[kind][1]
    for request in trace:
        assert request.blocks == (-(-request.prompt // size) if kind == "chat" else request.prompt // size)
        assert request.output >= 1
    assert [r.ts for r in trace] == sorted(r.ts for r in trace)
    assert len(trace) == COUNT


def test_prompts_of_a_session_share_their_beginning(trace: list[Request]) -> None:
    """All turns of a session begin with the same block, and most extend the one before."""
    last: dict[int, list[int]] = {}
    extends = 0
    for request in trace[:1000]:
        ids = _ids(request)
        previous = last.get(request.session)
        if previous is not None:
            assert ids[0] == previous[0]
            extends += ids[: len(previous) - 1] == previous[:-1]
        last[request.session] = ids
    assert extends >= 0.9 * (1000 - len(last))


def test_a_seed_names_one_trace(tmp_path: Path, kind: str) -> None:
    """The same seed writes the same bytes, another seed other requests."""
    files = [tmp_path / name for name in ("a.gz", "b.gz")]
    for file in files:
        trace_format.write(file, generate(kind, 50, 7), trace=kind, part="x", block_tokens=1, desc="")

    assert files[0].read_bytes() == files[1].read_bytes()
    assert generate(kind, 50, 7) != generate(kind, 50, 8)


def test_the_command_writes_a_readable_file(tmp_path: Path, kind: str) -> None:
    """The command line writes gzip JSON lines whose header agrees with what a naive count finds."""
    file = tmp_path / "trace.jsonl.gz"
    command = [sys.executable, "-m", "bench.load.traces", "--kind", kind, "--requests", "200", "--seed", "3"]
    subprocess.run([*command, "--out", str(file)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
    header, requests = trace_format.read(file)
    ids = [_ids(request) for request in requests]
    seen: set[int] = set()
    hits = 0
    for row in ids:
        hits += sum(block in seen for block in row)
        seen.update(row)
    first = json.loads(gzip.decompress(file.read_bytes()).splitlines()[1])

    assert header["requests"] == len(ids) == 200
    assert header["block_refs"] == sum(map(len, ids))
    assert header["unique_blocks"] == len(seen) == max(seen) + 1
    assert header["infinite_cache_hit"] == pytest.approx(hits / header["block_refs"], abs=1e-6)
    names = "trace part block_tokens requests block_refs unique_blocks infinite_cache_hit desc fields"
    assert list(header) == names.split()
    assert list(first) == ["ts", "in", "out", "s", "b"]


# Published means, medians and hit rates of the services each family is shaped after.
EXPECTED = {
    "chat": {"prompt": 12_035, "prompt p50": 6_909, "output": 343, "output p50": 350, "hit": 0.34, "turns": 1.43},
    "agents": {"prompt": 90_668, "prompt p50": 91_080, "output": 426, "output p50": 214, "hit": 0.96, "turns": 52},
}


def test_statistics_are_those_of_real_services(kind: str, trace: list[Request]) -> None:
    """Lengths, turns and sharing lie within 20 % of the published figures."""
    prompts, outputs = [r.prompt for r in trace], [r.output for r in trace]
    found = {
        "prompt": fmean(prompts),
        "prompt p50": median(prompts),
        "output": fmean(outputs),
        "output p50": median(outputs),
        "hit": trace_format.infinite_cache(trace)[2],
        "turns": COUNT / len(Counter(r.session for r in trace)),
    }

    assert found == {name: pytest.approx(value, rel=0.2) for name, value in EXPECTED[kind].items()}
