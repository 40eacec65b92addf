"""``quire bench serve``: agents' requests over HTTP, ours and a peer's server in turn on the whole machine.

For each workload both sides first answer a few agents greedily, and their answers are compared: a peer that says
something else is not the same model and is not measured. Then, pair by pair: our stack is started, plays the cold
agents, whose shared prompts are published inside the timed window, and then the warm ones, and is stopped; the peer
plays the same, once open and once with a salt for each tenant, its prefix cache emptied before each. The order changes
from pair to pair, prompts differ between pairs, and whichever side is not measured is stopped. transformers'
``generate`` and ``generate_batch`` can be peers too, without a server.

A side that fails, or takes longer than ``--limit``, costs its own figures of that pair and nothing else: it is started
again, and the tables say what it failed of. With ``--save`` results are written after every pair.
"""

from __future__ import annotations

import argparse
from http.client import HTTPException
from typing import Any

from bench.engine.floor import workload_floor
from bench.load.agents import WORKLOADS, Workload, make
from bench.load.generator import agreement
from bench.load.stream import StreamError
from bench.models.sizes import REAL, SIZES, model_directory, words
from bench.processes.side import OutOfTime, SideError
from bench.report.figures import Report, machine, say
from bench.report.plots import bars
from quire_engine.model.model import load_model
from quire_kv import QuireError

from .samples import OURS, Failure, Samples
from .sides import Answers, Sides

BROKEN = (SideError, StreamError, QuireError, OSError, HTTPException)
# Share of the compared answers' tokens, up to the first difference, below which it is another model. One model's own
# answers part in bfloat16 where two tokens are nearly as good: after 45 % in one run. Another's share hardly a word.
ALIKE = 0.25
COMPARISON = -2  # seed of the prompts that are compared first
NOTES = [
    "Of the floor: matrix products and attention of the tokens a side computed and drew, at the rates measured in"
    " this run on all cores by the fastest library at hand (of torch's: by torch's own operations), over the time it"
    " took. transformers: no HTTP; generate plays a few agents, one by one.",
    "KV bytes: blocks held by running requests and publications; ours from the kvstore's stats. Of the prompt: what"
    " agents of all tenants hold together beyond their own blocks.",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--workload", default="all", help=f"all, or some of {','.join(WORKLOADS)}")
    parser.add_argument("--peer", default="", help="vllm, transformers, transformers-generate, a server's URL; several")
    parser.add_argument("--peer-key", default="none", help="API key for a peer given as URL")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs (default: 5)")
    parser.add_argument("--model", choices=(*SIZES, REAL), default="27m", help=f"random Llama of this size, or {REAL}")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of all sides")
    parser.add_argument("--kv-gib", type=float, default=2.0, help="GiB of keys and values on either side (default: 2)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on agents and lengths (default: 1)")
    parser.add_argument("--engines", type=int, default=1, help="engines of ours (default: 1)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads of an engine of ours (0: our default)")
    parser.add_argument("--peer-threads", default="auto", help="VLLM_CPU_OMP_THREADS_BIND, e.g. 0-1 (default: auto)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a block of ours (default: 16)")
    parser.add_argument("--max-batch-tokens", type=int, default=2048, help="token budget of our step (default: 2048)")
    parser.add_argument("--max-sequences", type=int, default=256, help="batch slots of our engine (default: 256)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a side may take for a phase (default: 300)")
    parser.add_argument("--skip-ours", action="store_true", help="measure the peer alone")


def run(arguments: argparse.Namespace) -> Report:
    """Measure everything; returns the report."""
    names = WORKLOADS if arguments.workload == "all" else tuple(arguments.workload.split(","))
    unknown = set(names) - set(WORKLOADS)
    if unknown:
        raise SystemExit(f"quire bench serve: no workload {', '.join(sorted(unknown))}")
    report = Report("serve", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    model = load_model(model_directory(arguments.model), arguments.dtype)
    floors = {"floor_share": workload_floor(model, plain=False), "torch_floor_share": workload_floor(model, plain=True)}
    report.figures["floor_gflops"] = {name: floor.as_json() for name, floor in floors.items()}
    found: dict[str, Samples] = {}
    with Sides(arguments, floors) as sides:
        for peer in filter(None, arguments.peer.split(",")):
            say(f"starting {peer} ...")
            sides.join(peer)
        for name in names:
            samples = found[name] = Samples()
            _compare(name, sides, arguments, samples)
            for pair in range(arguments.pairs):
                measure(pair, make(name, pair, words(arguments.model), arguments.scale), sides, samples)
                fill(report, sides.settings, found)
                report.write(arguments.save)  # a run takes long: what is measured is kept
            if arguments.save:
                _plot(arguments.save, found)
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


def fill(report: Report, settings: dict[str, Any], found: dict[str, Samples]) -> None:
    """Put everything that was measured so far into the report."""
    report.settings |= settings
    report.figures |= {name: samples.as_json() for name, samples in found.items()}
    report.tables = [entry for name, samples in found.items() for entry in samples.tables(name)]
    report.notes = [*(note for name, samples in found.items() for note in samples.notes(name)), *NOTES]


def _plot(name: str, found: dict[str, Samples]) -> None:
    """Output rates of all sides, cold."""
    groups = {workload: samples.rates("cold") for workload, samples in found.items()}
    bars(name, "output tokens a second, cold prompts", "tokens / s", groups)


def measure(pair: int, workload: Workload, sides: Sides, samples: Samples) -> None:
    """One pair: every side in turn. What a side fails of is noted, and the next one follows."""
    samples.pairs = pair + 1
    texts: dict[str, Answers] = {}
    for side in sides.names if pair % 2 == 0 else sides.names[::-1]:
        if samples.given_up(side):
            continue
        say(f"{workload.name}, pair {pair + 1}: {side} ...")
        try:
            for phase, figures, answers in sides.measure(side, workload):
                samples.add(side, phase, pair, figures)
                texts.setdefault(side, answers)
        except BROKEN as error:
            _failed(side, pair, error, workload, sides, samples)
    ours = texts.pop(OURS, [])
    if workload.cold[0].greedy:
        samples.agreements += [agreement(ours, theirs) for theirs in texts.values() if len(theirs) == len(ours)]


def _compare(name: str, sides: Sides, arguments: argparse.Namespace, samples: Samples) -> None:
    """Before anything is timed: both sides' greedy answers to the same few agents."""
    workload = make(name, COMPARISON, words(arguments.model), arguments.scale)
    ours: Answers | None = None
    for side in sides.names if OURS in sides.names and len(sides.names) > 1 else []:
        say(f"{name}, comparing answers: {side} ...")
        try:
            answers = sides.compare(side, workload)
        except BROKEN as error:
            _failed(side, COMPARISON, error, workload, sides, samples)
            continue
        if side == OURS:
            ours = answers
        elif ours is not None:
            found = agreement(ours, answers)
            samples.compared[side] = found
            if found["common_prefix"] < ALIKE:
                reason = f"its answers are others than ours: {found['common_prefix']:.0%} of their tokens are equal"
                samples.fail(Failure(side, COMPARISON, reason, final=True))


def _failed(side: str, pair: int, error: Exception, workload: Workload, sides: Sides, samples: Samples) -> None:
    """Note a failure and have the side started again."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    late = isinstance(error, OutOfTime)
    if isinstance(error, OutOfTime) and pair >= 0:
        asked = sum(len(agent.turns) * agent.n * agent.max_tokens for agent in workload.cold)
        reason = f"{error} (below {asked / error.limit_s:.3g} tokens/s)"
    said = sides.drop(side)
    if said and not late:
        reason += f"; its log: {said}"
    say(f"{workload.name}: {side} failed: {reason}")
    samples.fail(Failure(side, pair, reason, final=late))
