"""``quire bench engine``: where the time of an engine's step goes, and how far it is from the arithmetic's floor.

The engine's own loop runs in this process (``inprocess``), its methods wrapped with clocks (``stopwatch``). The floor
is ``floor.py``'s.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

import quire_engine.model.runner as runner_module
from bench.models.sizes import SIZES, model_directory, words
from bench.processes.kvprocess import KVProcess
from bench.report.figures import Report, machine, median, say, table
from quire_engine.kv.kv_session import KvSession
from quire_engine.model.fused.layers import FusedGate
from quire_engine.model.model import Model, load_model
from quire_engine.model.runner import Runner
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32

from .floor import LINEAR, decode_floor
from .inprocess import Script, layout_of_model, make_engine
from .stopwatch import Stopwatch

Arrivals = list[tuple[float, Generate]]
_ADJUSTED: dict[str, Any] = {
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.2,
    "bias_token_ids": pack_u32(range(7, 15)),
    "bias": (-1.0,) * 8,
    "bad_words": tuple(pack_u32((token, token + 1)) for token in range(7, 15)),
}
PARTS = (
    "schedule",
    "kvstore",
    "pack + plan",
    "attention",
    "GEMM",
    "model's rest",
    "sample",
    "outcome",
    "deliver",
    "detokenise",
)


@dataclass(frozen=True, slots=True)
class StepCase:
    """``sequences`` prompts of ``prompt`` tokens, all but ``own`` of them the same; ``output`` tokens each.

    Attributes:
        adjusted: every request asks for all that can be done to its logits.
    """

    sequences: int
    prompt: int
    own: int
    output: int
    adjusted: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--model", choices=tuple(SIZES), default="27m", help="random Llama of this size")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (0: torch's default)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a block (default: 16)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")


def step_cases(quick: bool) -> dict[str, StepCase]:
    """What is measured: shared prompts and private ones, as the serve bench sends them, and the former with penalties,
    bias and masks in every request."""
    if quick:
        return {"shared": StepCase(4, 64, 8, 8), "adjusted": StepCase(4, 64, 8, 8, adjusted=True)}
    return {
        "shared-prompt": StepCase(64, 1810, 10, 48),
        "shared-prompt-adjusted": StepCase(64, 1810, 10, 48, adjusted=True),
        "private": StepCase(32, 860, 860, 48),
    }


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = Report("engine", {k: getattr(arguments, k) for k in ("model", "block_size", "quick")})
    report.settings["threads"] = torch.get_num_threads()
    report.settings["clock"] = "CPU time of the engine's thread" if torch.get_num_threads() == 1 else "wall"
    model = load_model(model_directory(arguments.model))
    detokenise = report.figures["detokenise_us_per_token"] = _detokenise(arguments.model)
    for name, case in step_cases(arguments.quick).items():
        say(f"{name} ...")
        steps = _steps(model, arguments, case)
        found = {
            "decode": _split([s for s in steps if s["rows"] == s["sequences"] == case.sequences]),
            "prefill": _split([s for s in steps if s["rows"] > s["sequences"]]),
            "floor": decode_floor(model, case.sequences, case.prompt + case.output / 2),
        }
        for kind in ("decode", "prefill"):
            if found[kind]:  # of the tokens that the step draws, one a sequence
                found[kind]["detokenise"] = found[kind]["sequences"] * detokenise / 1000
        if found["decode"]:
            found["decode"]["share_of_floor"] = found["floor"]["total_ms"] / found["decode"]["step"]
        report.figures[name] = found
        report.tables.append((f"{name}: milliseconds a step", _table(found)))
    report.notes += [
        f"Detokenising is the gateway's, beside the next step: {detokenise:.3g} us a token, not in the step's time.",
        "Floor: the step's matrix products alone, measured in this run, and its attention's arithmetic at that rate.",
    ]
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


def _arrivals(case: StepCase, vocabulary: int) -> Arrivals:
    """The first request comes alone, so that the others find the shared part computed."""
    rng = Random(7)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(7, vocabulary) for _ in range(count)]

    shared = tokens(case.prompt - case.own)
    first = Generate(
        "first", "t", pack_u32([*shared, *tokens(case.own)]), Sampling(1, temperature=0.0, ignore_eos=True)
    )
    sampling = Sampling(case.output, temperature=0.0, ignore_eos=True, **(_ADJUSTED if case.adjusted else {}))
    others = [
        (0.001, Generate(str(i), "t", pack_u32([*shared, *tokens(case.own)]), sampling)) for i in range(case.sequences)
    ]
    return [(0.0, first), *others]


def _steps(model: Model, arguments: argparse.Namespace, case: StepCase) -> list[dict[str, float]]:
    layout = layout_of_model(model_directory(arguments.model), arguments.block_size)
    blocks = (case.sequences + 2) * -(-(case.prompt + case.output + 16) // arguments.block_size)
    script = Script(_arrivals(case, model.vocab_size), batch=case.sequences)
    limits = SchedulerLimits(case.sequences, 2048, arguments.block_size)
    watch = Stopwatch()
    watch.wrap_modules(model.module, (*LINEAR, FusedGate), "GEMM")
    watch.wrap(model, "forward", "forward")
    watch.wrap(runner_module, "choose_tokens", "sample")
    try:
        with KVProcess(blocks, arguments.block_size, layout) as kvstore:
            engine = make_engine(model, kvstore.directory, limits, layout, script)
            _wrap(engine, watch)
            engine.run()
    finally:
        watch.restore()
    return watch.steps


def _wrap(engine: Any, watch: Stopwatch) -> None:
    """Clocks on the engine's parts; its runner is made when it attaches."""
    make_runner = engine._make_runner

    def make(client: Any) -> Runner:
        runner: Runner = make_runner(client)
        backend: Any = runner._backend
        watch.wrap(backend, "attend", "attention")
        watch.wrap(backend, "write_kv", "attention")
        inner = runner.launch

        def launch(work: Any, copies: Any) -> Any:
            watch.count("rows", sum(item.count for item in work))
            watch.count("sequences", len(work))
            return inner(work, copies)

        runner.launch = launch  # type: ignore[method-assign]
        watch.wrap(runner, "launch", "run")
        return runner

    engine._make_runner = make
    watch.wrap(engine, "_plan", "schedule")
    watch.wrap(KvSession, "sync", "kvstore")
    watch.wrap(engine, "_apply", "kvstore")
    watch.wrap(engine._token_output, "apply", "outcome")
    watch.wrap(type(engine._outbox), "flush", "deliver")
    watch.wrap_step(engine, "_step")


def _split(steps: list[dict[str, float]]) -> dict[str, float]:
    """Means of each part over the faster half of the steps, in milliseconds: the parts add up, and steps that were
    disturbed by other processes are left out."""
    if not steps:
        return {}
    fast = sorted(steps, key=lambda step: step["step"])[: (len(steps) + 1) // 2]

    def mean(clock: str, *without: str) -> float:
        return 1000 * sum(s.get(clock, 0.0) - sum(s.get(k, 0.0) for k in without) for s in fast) / len(fast)

    found = {part: mean(part) for part in ("schedule", "kvstore", "attention", "GEMM", "sample", "outcome", "deliver")}
    found["pack + plan"] = mean("run", "forward", "sample")
    found["model's rest"] = mean("forward", "attention", "GEMM")
    return {
        "steps": float(len(steps)),
        "step": mean("step"),
        "rows": median(s["rows"] for s in fast),
        "sequences": median(s["sequences"] for s in fast),
        **found,
        "wall": mean("wall"),
    }


def _detokenise(size: str) -> float:
    from tokenizers import Tokenizer

    from quire_services.gateway.text.detokenizer import Detokenizer

    tokenizer = Tokenizer.from_file(str(model_directory(size) / "tokenizer.json"))
    decoder = Detokenizer(tokenizer, [8, 9, 10])
    began = time.perf_counter()
    for token in range(2000):
        decoder.push(7 + token % len(words(size)))
    return (time.perf_counter() - began) * 1e6 / 2000


def _table(found: dict[str, dict[str, float]]) -> str:
    rows: list[list[object]] = []
    for kind in ("decode", "prefill"):
        if found[kind]:
            split = found[kind]
            rows.append([kind, split["rows"], *(split[part] for part in PARTS), split["step"], split["wall"]])
    floor = found["floor"]
    parts: list[object] = [floor.get({"attention": "attention_ms", "GEMM": "gemm_ms"}.get(part, "")) for part in PARTS]
    rows.append(["floor of decode", found["decode"].get("rows"), *parts, floor["total_ms"], None])
    return table(rows, ["step", "rows", *PARTS, "step ms", "wall ms"])
