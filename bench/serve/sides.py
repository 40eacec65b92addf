"""The sides of ``quire bench serve``: what each is, how it plays a workload, and what is noted while it does.

A side is named as in the tables: ``quire``; a server's name with ``open`` or ``isolated``; ``transformers`` with its
mode. Ours is started for each play and stopped again; peers stay up (``Kept``) but rest while others play, are told to
forget before each play, and are stopped when they failed, so that the next play begins with a new one.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from bench.engine.floor import Floor
from bench.load.agents import TENANTS, Agent, Workload, make
from bench.load.generator import play, play_cold, play_summary
from bench.load.stream import Answer
from bench.models.sizes import MAX_LEN, kv_bytes_per_token, model_directory, words
from bench.servers.kept import Kept
from bench.servers.quire import Quire
from bench.servers.server import Elsewhere, Peak, Server
from bench.servers.transformers import MODES, Transformers, transformers
from bench.servers.vllm import Vllm

from .samples import OURS, Figures

Answers = list[list[Answer]]
PhaseFigures = tuple[str, Figures, Answers]
COMPARED = 4  # agents whose answers are compared before anything is timed
COMPARED_TOKENS = 32
OFTEN_S = 0.02  # the last blocks of short answers are not held for long
_MODES = {"transformers": MODES, **{f"transformers-{mode}": (mode,) for mode in MODES}}


class Sides:
    """All sides of one run, as a context manager; leaving it stops every peer.

    Attributes:
        names: the sides, ours first if it is measured.
        settings: of each, for the report.
    """

    def __init__(self, arguments: argparse.Namespace, floors: dict[str, Floor]) -> None:
        self._arguments, self._floors = arguments, floors
        self._servers: dict[str, Kept[Server]] = {}
        self._transformers = Kept(self._start_transformers)
        self.names = [] if arguments.skip_ours else [OURS]
        self.settings: dict[str, Any] = {}

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in (*self._servers.values(), self._transformers):
            peer.drop()

    def join(self, name: str) -> None:
        """Start a peer. Raises SideError where it does not even start once."""
        if name in _MODES:
            self.settings["transformers_settings"] = self._transformers.get().settings
            self.names += [f"transformers {mode}" for mode in _MODES[name]]
            return
        kept = Kept(partial(self._start_server, name))
        server = kept.get()
        self._servers[server.name] = kept
        self.settings[f"{server.name}_settings"] = server.settings
        server.rest()
        self.names += [f"{server.name} open", f"{server.name} isolated"]

    def drop(self, side: str) -> str:
        """Stop a peer that failed, for the next play to start another; returns the last error in its log."""
        name = side.partition(" ")[0]
        if name == "transformers":
            self._transformers.drop()
        if name not in self._servers:
            return ""
        kept = self._servers[name]
        said = kept.value.last_words() if kept.value is not None else ""
        kept.drop()
        return said

    def compare(self, side: str, workload: Workload) -> Answers:
        """Greedy answers to the first agents of a workload, untimed."""
        agents = tuple(_greedy(agent) for agent in workload.cold[:COMPARED])
        limit, (name, _, way) = self._arguments.limit, side.partition(" ")
        if name == "transformers":
            return self._transformers.get().play(way, agents, limit)
        with self._running(side) as server:
            server.publish(workload.shared)
            return play(agents, server.target(way == "isolated"), limit_s=limit)

    def measure(self, side: str, workload: Workload) -> Iterator[PhaseFigures]:
        """Figures and answers of the cold agents, then of the warm ones, each as soon as it is there."""
        name, _, way = side.partition(" ")
        if name == "transformers":
            yield self._without_server(way, workload)
            return
        with self._running(side) as server:
            target, limit = server.target(way == "isolated"), self._arguments.limit
            play(self._warm_up(), target, limit_s=limit)
            with Peak(server) as peak:
                publish = partial(server.publish, workload.shared)
                answers = play_cold(publish, workload.cold, target, limit_s=limit)
            yield "cold", self._summary(answers) | {"peak_kv_mib": peak.bytes / 2**20}, answers
            with Peak(server) as peak:
                answers = play(workload.warm, target, limit_s=limit)
            figures = self._summary(answers) | {"peak_kv_mib": peak.bytes / 2**20}
            yield "warm", figures | self._prompt_bytes(server, workload, way), answers

    @contextlib.contextmanager
    def _running(self, side: str) -> Iterator[Server]:
        """The side's server, with nothing in its cache."""
        if side == OURS:
            with self._quire() as server:
                self.settings["quire_settings"] = server.settings
                yield server
        else:
            server = self._servers[side.partition(" ")[0]].get()
            server.wake()
            try:
                server.forget()
                yield server
            finally:
                server.rest()

    def _prompt_bytes(self, server: Server, workload: Workload, way: str) -> Figures:
        """What the one shared prompt holds: two agents of every tenant hold it and their own blocks, one agent of
        every tenant holds it and half as many of those."""
        if len(workload.shared) != 1 or len(workload.warm) < 2 * TENANTS:
            return {}
        held = []
        for agents in (workload.warm[:TENANTS], workload.warm[: 2 * TENANTS]):
            with Peak(server, OFTEN_S) as peak:
                together = tuple(replace(agent, start_s=0.0) for agent in agents)
                play(together, server.target(way == "isolated"), limit_s=self._arguments.limit)
            held.append(peak.bytes)
        return {"prompt_kv_mib": (2 * held[0] - held[1]) / 2**20}

    def _without_server(self, mode: str, workload: Workload) -> PhaseFigures:
        """Only cold: neither mode keeps anything between calls."""
        peer, limit = self._transformers.get(), self._arguments.limit
        peer.play(mode, self._warm_up(), limit)
        answers = peer.play(mode, workload.cold, limit)
        figures = self._summary(answers)
        if mode == "generate_batch":  # its prefix cache hits inside a call, but does not say how much
            for unknown in ("prompt_tokens_computed", *self._floors):
                del figures[unknown]
        return "cold", figures, answers

    def _summary(self, answers: Answers) -> Figures:
        figures = play_summary(answers)
        shares = {name: floor.seconds(answers) / figures["span_s"] for name, floor in self._floors.items()}
        return figures | shares

    def _warm_up(self) -> tuple[Agent, ...]:
        """A few unrelated requests: first calls allocate, compile and connect."""
        return make("private", -1, words(self._arguments.model), 0.1).cold

    # --- starting ---------------------------------------------------------------------------------------------------

    def _quire(self) -> Quire:
        a = self._arguments
        options = {"engines": a.engines, "block_size": a.block_size, "max_batch_tokens": a.max_batch_tokens}
        options |= {"max_sequences": a.max_sequences, "threads": a.threads}
        block_bytes = kv_bytes_per_token(a.model, a.dtype) * a.block_size
        return Quire(model_directory(a.model), int(a.kv_gib * 2**30), block_bytes, options, a.dtype)

    def _start_server(self, name: str) -> Server:
        a = self._arguments
        if name == "vllm":
            return Vllm(model_directory(a.model), int(a.kv_gib * 2**30), a.peer_threads, MAX_LEN, a.dtype)
        return Elsewhere(name, a.peer_key)

    def _start_transformers(self) -> contextlib.AbstractContextManager[Transformers]:
        a = self._arguments
        token_bytes = kv_bytes_per_token(a.model, a.dtype)
        return transformers(model_directory(a.model), int(a.kv_gib * 2**30), token_bytes, a.dtype)


def _greedy(agent: Agent) -> Agent:
    short = min(agent.max_tokens, COMPARED_TOKENS)
    return replace(agent, start_s=0.0, n=1, greedy=True, max_tokens=short)
