"""``quire bench replay`` on generated traces: against a naive cache, the exact optimum, and the command line."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections import OrderedDict
from pathlib import Path

import pytest

from bench.eviction import replay
from bench.load import trace_format
from bench.load.trace_format import Request
from bench.load.traces import KINDS, generate
from quire_services.cli.command import main

HEADER = b'{"trace": "t", "block_tokens": 16}\n'


def saved(folder: Path, requests: list[Request]) -> replay.Trace:
    """The requests as a file, read again."""
    file = folder / "trace.jsonl.gz"
    trace_format.write(file, requests, trace="made", part="test", block_tokens=16, desc="")
    return replay.read_trace(file)


def ids(request: Request) -> list[int]:
    """Block ids of a request."""
    return [first + i for first, count in request.runs for i in range(count)]


def naive_lru(requests: list[Request], capacity: int) -> float:
    """Hit rate of the plainest LRU: a request's blocks become the newest, its tail the oldest of them."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = references = 0
    for request in requests:
        path = ids(request)
        references += len(path)
        hits += sum(1 for _ in itertools.takewhile(cache.__contains__, path))
        for block in reversed(path[:capacity]):
            cache.pop(block, None)
            cache[block] = None
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits / references


def tiny(seed: int) -> list[Request]:
    """A few requests over a small tree."""
    rng, parents, requests = random.Random(seed), [-1], []
    for number in range(8):
        path, at = [], rng.randrange(-1, len(parents) - 1) if len(parents) > 1 else -1
        while at != -1:
            path.insert(0, at)
            at = parents[at + 1]
        while (len(path) < 3 and rng.random() < 0.6) or not path:
            parents.append(path[-1] if path else -1)
            path.append(len(parents) - 2)
        requests.append(Request(float(number), 16 * len(path), 1, -1, tuple((block, 1) for block in path)))
    return requests


def best(requests: list[Request], capacity: int) -> int:
    """Hits of the best of all choices, by trying them."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for request in requests:
        after: dict[frozenset[int], int] = {}
        path = ids(request)
        for cache, hits in states.items():
            found = sum(1 for _ in itertools.takewhile(cache.__contains__, path))
            others = cache - set(path)
            for kept in range(min(len(others), capacity - len(path)) + 1):
                for choice in itertools.combinations(others, kept):
                    state = frozenset(choice) | set(path)
                    after[state] = max(after.get(state, 0), hits + found)
        states = after
    return max(states.values())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_lru_is_the_naive_lru(tmp_path: Path, kind: str) -> None:
    """The store, driven by allocate, seal and free, hits exactly what a list of recent blocks would."""
    requests = generate(kind, 150, 3)
    trace = saved(tmp_path, requests)
    longest = max(request.blocks for request in requests)
    for capacity in (longest, 3 * longest):
        assert replay.replay(trace, capacity, "lru").block_hit_rate == round(naive_lru(requests, capacity), 6)


@pytest.mark.parametrize("policy", ["lru", "density", "belady"])
def test_no_policy_evicts_from_a_pool_that_holds_everything(tmp_path: Path, policy: str) -> None:
    """With room for all blocks the hit rate is that of a cache that never evicts."""
    requests = generate("chat", 120, 1)
    _, unique, rate = trace_format.infinite_cache(requests)
    line = replay.replay(saved(tmp_path, requests), unique, policy)

    assert (line.block_hit_rate, line.evictions, line.requests) == (round(rate, 6), 0, 120)


@pytest.mark.parametrize("seed", range(12))
def test_belady_is_the_optimum(tmp_path: Path, seed: int) -> None:
    """On tiny trees no sequence of choices hits more."""
    requests = tiny(seed)
    references = sum(request.blocks for request in requests)
    for capacity in (4, 5, 6):
        line = replay.replay(saved(tmp_path, requests), capacity, "belady")
        assert line.block_hit_rate == round(best(requests, capacity) / references, 6)


@pytest.mark.parametrize(("kind", "share", "gain"), [("chat", 0.05, 0.01), ("agents", 0.05, -0.005)])
def test_density_beats_lru_where_there_is_something_to_gain(
    tmp_path: Path, kind: str, share: float, gain: float
) -> None:
    """At least a point of chat; of agents, whose recency says nearly all, no more than half a point is lost."""
    requests = generate(kind, 1500 if kind == "chat" else 300, 5)
    trace = saved(tmp_path, requests)
    capacity = round(share * trace_format.infinite_cache(requests)[1])
    lru, density = (replay.replay(trace, capacity, policy).block_hit_rate for policy in ("lru", "density"))

    assert density >= lru + gain


def test_a_request_longer_than_the_capacity_is_cut_to_it(tmp_path: Path) -> None:
    """It hits its beginning when it comes again; what did not fit is a miss."""
    requests = [Request(float(second), 160, 1, -1, ((0, 10),)) for second in range(2)]
    line = replay.replay(saved(tmp_path, requests), 4, "lru")

    assert line.block_hit_rate == 0.2


def test_the_command_prints_one_json_line_a_capacity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With exactly the documented fields, in the order asked for."""
    saved(tmp_path, generate("chat", 60, 2))
    file = str(tmp_path / "trace.jsonl.gz")
    assert main(["bench", "replay", file, "--capacity-blocks", "300", "--capacity-blocks", "600", "--json"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["capacity_blocks"] for line in lines] == [300, 600]
    fields = ["trace", "policy", "capacity_blocks", "block_hit_rate", "requests", "evictions"]
    assert [list(line) for line in lines] == [fields] * 2
    assert lines[0]["policy"] == "density"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(b""), "line 1"),
        (gzip.compress(HEADER + b'{"ts": 0}\n'), "line 2"),
        (gzip.compress(b'{"trace": "t", "block_tokens": 0}\n'), "block_tokens"),
        (gzip.compress(HEADER + b'{"ts": 0, "out": 1, "b": [[-1, 2]]}\n'), "line 2"),
        (gzip.compress(HEADER + b'{"ts": 0, "out": 1, "b": [[0, 2], [0, 1]]}\n'), "two predecessors"),
        (gzip.compress(HEADER + b'{"ts": 0, "out": 1, "b": [[0, 9999999999]]}\n'), "blocks"),
        (gzip.compress(HEADER + b'{"ts": NaN, "out": 1, "b": [[0, 2]]}\n'), "ts nan"),
        (gzip.compress(HEADER + b'{"ts": 0, "out": 1, "b": [[0, 2]]')[:-9], "end"),
    ],
    ids=["no-gzip", "empty", "no-fields", "no-size", "negative-id", "two-parents", "huge", "nan", "cut-short"],
)
def test_a_file_that_is_no_trace_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, complaint: str
) -> None:
    """Status 1, and where it went wrong."""
    file = tmp_path / "broken.gz"
    file.write_bytes(content)

    assert main(["bench", "replay", str(file), "--capacity-blocks", "8"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert complaint in error
