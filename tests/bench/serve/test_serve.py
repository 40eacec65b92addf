"""The serve bench: what it sends, how it reads a stream, and one tiny run without a peer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.engine.floor import Floor
from bench.load.agents import WORKLOADS, make
from bench.load.stream import Answer, StreamError, read_answer
from tests.support.repository import ROOT

WORDS = tuple(f"w{number}" for number in range(500))
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(event: str) -> bytes:
    data = f"data: {event}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_stream_is_read_with_the_times_of_its_pieces() -> None:
    """Each text event carries the time at which its last byte arrived; usage comes from the last event."""
    events = [
        chunk(json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})),
        chunk(json.dumps({"choices": [{"index": 0, "delta": {"content": "w1"}}]})),
        chunk(json.dumps({"choices": [{"index": 0, "delta": {"content": " w2"}}]})),
        chunk(json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})),
        chunk("[DONE]"),
    ]
    received, marks = HEAD, []
    for number, event in enumerate(events):
        received += event
        marks.append((len(received), float(number)))
    answer = read_answer(received + b"0\r\n\r\n", [*marks, (len(received) + 5, 9.0)], began=-1.0)

    assert answer.tokens == {0: [1.0, 2.0]}
    assert answer.texts == {0: "w1 w2"}
    assert (answer.prompt, answer.output, answer.cached, answer.ended) == (7, 2, 0, 9.0)


def test_refusal_is_an_error() -> None:
    """An answer that is not 200 is reported with what the server said."""
    with pytest.raises(StreamError, match="too many"):
        read_answer(b"HTTP/1.1 429 Too Many\r\n\r\ntoo many", [(10, 0.0)], began=0.0)


def test_floor_counts_what_was_computed() -> None:
    """Cached prompt tokens cost nothing but the reading of their keys; every continuation is drawn by itself."""
    floor = Floor(2.0, {2: 4.0, 64: 9.0}, {2: 8.0, 64: 9.0}, 5.0, 7.0, layer_flops=100, head_flops=8, key_flops=2)
    answer = Answer(0.0, 1.0, {0: [0.5]}, {0: "a", 1: "b"}, prompt=10, cached=4, output=8)
    prompt, drawn = 6 * (4 + 10) / 2, 8 * (10 + 4 / 2)
    prefill = 6 * 100 / 2.0 + prompt * 2 / 5.0

    assert floor.seconds([[answer]]) == pytest.approx(prefill + 8 * (100 / 4.0 + 8 / 8.0) + drawn * 2 / 7.0)
    assert floor.seconds([[answer], [answer]]) == pytest.approx(2 * floor.seconds([[answer]]))
    many = prefill + 8 * (100 / 9.0 + 8 / 9.0) + drawn * 2 / 7.0
    assert floor.seconds([[answer]] * 20) == pytest.approx(20 * many)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_repeat(name: str) -> None:
    """A workload is the same for the same seed, another for another, and its warm part shares what is shared."""
    workload = make(name, 1, words=WORDS, scale=0.1)

    assert workload == make(name, 1, words=WORDS, scale=0.1)
    assert workload.cold != make(name, 2, words=WORDS, scale=0.1).cold
    assert {agent.system for agent in workload.warm} == {agent.system for agent in workload.cold}
    assert set(workload.shared) == {agent.system for agent in workload.cold if agent.system}


@pytest.mark.process
@pytest.mark.slow
def test_serve_prints_json() -> None:
    """A tiny run of our stack alone reports cold and warm figures; the published prompt is computed in the first."""
    command = [sys.executable, "-m", "quire_services.cli", "bench", "serve", "--json", "--workload=shared-prompt"]
    command += ["--pairs=1", "--model=tiny", "--kv-gib=0.0625", "--scale=0.05", "--threads=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=True)
    sides = json.loads(done.stdout)["figures"]["shared-prompt"]["sides"]

    assert set(sides) == {"quire cold", "quire warm"}
    assert sides["quire cold"]["output_tokens"] > 0
    assert sides["quire warm"]["prompt_tokens_computed"] < sides["quire cold"]["prompt_tokens_computed"]
