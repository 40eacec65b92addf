"""``quire bench windows``: blocks that a model holds whose layers all have a sliding window, and those it would hold.

Requests of one length, with prompts of their own, are answered by the engine's own loop over a real kvstore: once by an
engine that gives back what all windows have left behind, once by one that holds it to the end. In every step the
kvstore is asked how many blocks are held. Whether both say the same tokens is shown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from bench.engine.inprocess import Script, layout_of_model, make_engine
from bench.models.tiny import FIRST_WORD, make_model
from bench.processes.kvprocess import KVProcess
from bench.report.figures import Report, say, table
from quire_engine.kv.kv_session import KvSession
from quire_engine.model.model import Model, load_model
from quire_engine.model.runner import Runner
from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_engine.sequences.step_plan import Work
from quire_kv import KVReader
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32

VOCABULARY, BLOCK_SIZE, CHUNK = 512, 16, 512
WINDOWS = (1024, 2047)  # Gemma 3's narrow layers; Phi-3-mini-4k


class HoldsAll(Runner):
    """As if one of the model's layers saw everything."""

    window = None


class HeldLog(StepLog):
    """Asks the kvstore in every step how many blocks are held.

    Attributes:
        held: by step.
        end: in the last step in which all requests ran.
    """

    def __init__(self, reader: KVReader, requests: int) -> None:
        super().__init__(None)
        self.held: list[int] = []
        self.end = 0
        self._reader, self._requests = reader, requests

    def write(self, kv: KvSession, scheduler: Scheduler, work: list[Work]) -> None:  # noqa: ARG002 - what a log is told
        """Look at the kvstore."""
        self.held.append(self._reader.stats(brief=True).blocks["held"])
        if len(scheduler.running) == self._requests:
            self.end = self.held[-1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--tokens", type=int, default=4096, help="of a prompt and its answer (default: 4096)")
    parser.add_argument("--answer", type=int, default=256, help="tokens of them that are generated (default: 256)")
    parser.add_argument("--requests", type=int, default=4, help="at a time (default: 4)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    torch.set_num_threads(1)  # the model is tiny: more would wait for each other
    report = Report("windows", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    rows: list[list[object]] = []
    for window in WINDOWS:
        with tempfile.TemporaryDirectory() as folder:
            longest = arguments.tokens + BLOCK_SIZE
            directory = make_model(Path(folder), "mistral", vocab=VOCABULARY, window=window, max_len=longest)
            model = load_model(directory)
            say(f"window of {window}, all held ...")
            before = _one(model, directory, arguments, gives_back=False)
            say(f"window of {window}, given back ...")
            after = _one(model, directory, arguments, gives_back=True)
        same = after.pop("texts") == before.pop("texts")
        report.figures[str(window)] = {"held": before, "given_back": after, "same_tokens": same}
        shares = [100 * after[name] / before[name] for name in ("end", "mean", "most")]
        row = [before["end"], after["end"], shares[0], before["mean"], after["mean"], shares[1], shares[2]]
        rows.append([window, *row, "yes" if same else "NO"])
    headings = ["window", "at the end, all held", "given back", "%", "mean, all held", "given back", "%", "most, %"]
    title = f"blocks held by {arguments.requests} sequences of {arguments.tokens} tokens"
    report.tables.append((title, table(rows, [*headings, "same tokens"])))
    report.notes.append(
        "Blocks of 16 tokens, counted by the kvstore in every step. At the end: in the last step in which all requests "
        "run. The most is held while prompts are computed: a table is granted for all of a prompt at once."
    )
    return report


def _one(model: Model, directory: Path, arguments: argparse.Namespace, gives_back: bool) -> dict[str, Any]:
    asked = [(0.0, request) for request in _requests(arguments)]
    each = arguments.tokens // BLOCK_SIZE + 2
    layout = layout_of_model(directory, BLOCK_SIZE)
    # What is given back stays cached: the pool has space for all, so that nothing is evicted or preempted.
    with KVProcess(2 * each * arguments.requests, BLOCK_SIZE, layout) as kvstore, KVReader(kvstore.directory) as reader:
        script, log = Script(asked), HeldLog(reader, arguments.requests)
        limits, runner = SchedulerLimits(arguments.requests, CHUNK, BLOCK_SIZE), Runner if gives_back else HoldsAll
        make_engine(model, kvstore.directory, limits, layout, script, log, runner=runner).run()
    if wrong := [one.finish for one in script.seen.values() if one.finish != "length"]:
        raise RuntimeError(f"a request ended with {wrong[0]!r}")
    return {
        "end": log.end,
        "mean": sum(log.held) / len(log.held),
        "most": max(log.held),
        "steps": len(log.held),
        "texts": {name: seen.text.tolist() for name, seen in script.seen.items()},
    }


def _requests(arguments: argparse.Namespace) -> list[Generate]:
    draw, found = Random("windows"), []
    how = Sampling(max_tokens=arguments.answer, temperature=0.0, ignore_eos=True)
    for number in range(arguments.requests):
        prompt = [draw.randrange(FIRST_WORD, VOCABULARY) for _ in range(arguments.tokens - arguments.answer)]
        found.append(Generate(f"request-{number}", "bench", pack_u32(prompt), how, 1))
    return found
