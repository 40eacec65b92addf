"""transformers as a peer of the serve bench: drives ``transformers_side.py`` in the peers' environment.

It is no server: its answers have no HTTP in them. ``generate`` serves one request after the other, so its rate does not
depend on how many there are; only the first ``NAIVE`` agents are played.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.load.agents import Agent
from bench.load.stream import Answer
from bench.processes.side import ROOT, Side, peer_python

MODES = ("generate", "generate_batch")
NAIVE = 6


class Transformers:
    """The program, with the model loaded."""

    def __init__(self, side: Side, settings: dict[str, Any]) -> None:
        self._side, self.settings = side, settings

    def play(self, mode: str, agents: tuple[Agent, ...], limit_s: float | None = None) -> list[list[Answer]]:
        """The agents' answers; raises SideError, and OutOfTime where they take longer than ``limit_s``."""
        played = agents[:NAIVE] if mode == "generate" else agents
        found = self._side.ask_within(limit_s, mode=mode, agents=[asdict(agent) for agent in played])
        return [[_answer(answer) for answer in turns] for turns in found["answers"]]


def _answer(found: dict[str, Any]) -> Answer:
    texts = dict(enumerate(found["texts"]))
    times = {0: found["tokens"]} if len(texts) == 1 else {i: found["tokens"][i :: len(texts)] for i in texts}
    counts = (found["prompt"], found["cached"], found["output"])
    return Answer(found["began"], found["ended"], times, texts, *counts)


@contextlib.contextmanager
def transformers(model: Path, kv_bytes: int, token_bytes: int, dtype: str) -> Iterator[Transformers]:
    """The peer while the context is open; raises SideError."""
    command = [str(peer_python("vllm")), "-m", "bench.servers.transformers_side"]
    with Side("transformers", command, {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}) as side:
        settings = side.ask(directory=str(model), kv_bytes=kv_bytes, token_bytes=token_bytes, dtype=dtype)
        yield Transformers(side, {**settings, "naive_requests": NAIVE, "rest": "defaults"})
