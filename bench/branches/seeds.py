"""``quire bench seeds``: whether a text depends on anything but its request, and by how little it does not.

The same requests (greedy, drawn, drawn from the likeliest, and held to a grammar) are answered one at a time, and then
in one batch, in chunks, short of memory, from the cache, in two halves by an engine each, the second half of each text
by an engine that is given the first, and without drafts of what the grammar forces. Each text is compared with the one
of the request alone.

What the model computes for a row must not depend on its batch either, where an engine says so at load
(``selftest.invariance``): then nothing may have moved by a bit. Elsewhere it does, because libraries choose other
orders of additions for other sizes. So each draw's margin is measured (``draws``), and how far the other runs have
moved the ends that it is measured from. A text can change only where a margin is smaller than that.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch

from bench.engine.grammars import GRAMMAR
from bench.engine.held_rows import Pieces
from bench.engine.inprocess import Script, layout_of_model, make_engine
from bench.models.tiny import FIRST_WORD, make_model
from bench.processes.kvprocess import KVProcess
from bench.report.figures import Report, percentile, say, table
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.grammar import GrammarState
from quire_engine.model.model import Model, load_model
from quire_engine.model.selftest.invariance import batch_dependence
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32

from .draws import Draw, Place, watched

VOCABULARY, BLOCK, BUDGET, CHUNK = 512, 16, 2048, 40
LONGEST_PROMPT = 300
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.0},
    "filtered": {"temperature": 1.3, "top_p": 0.9, "top_k": 60, "min_p": 0.01},
    "grammar": {"temperature": 1.0, "grammar": GRAMMAR.encode()},
}


@dataclass(slots=True)
class Texts:
    """Texts by request, draws by place, and counters of the engines."""

    texts: dict[str, list[int]] = field(default_factory=dict)
    draws: dict[Place, Draw] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bed:
    """A model, and what its engines need beside a kvstore."""

    model: Model
    directory: Path
    compiler: GrammarCompiler

    def play(
        self, kvstore: KVProcess, requests: list[Generate], into: Texts, budget: int = BUDGET, at_once: int = 0
    ) -> None:
        """Have one engine answer, ``at_once`` at a time, else all."""
        script = Script(((0.0, request) for request in requests), batch=at_once)
        limits, layout = SchedulerLimits(len(requests), budget, BLOCK), layout_of_model(self.directory, BLOCK)
        engine = make_engine(self.model, kvstore.directory, limits, layout, script, compiler=self.compiler)
        with watched(into.draws):
            engine.run()
        into.texts |= {name: list(seen.text) for name, seen in script.seen.items()}
        for name, count in engine.load().counters.items():
            into.counters[name] = into.counters.get(name, 0) + count

    def kvstore(self, requests: list[Generate], share: float = 1.0) -> KVProcess:
        """A kvstore with room for ``share`` of what the requests hold at their ends, and for one of them."""
        blocks = [-(-(len(r.tokens) // 4 + r.sampling.max_tokens) // BLOCK) + 2 for r in requests]
        return KVProcess(max(max(blocks) + 4, int(share * sum(blocks))), BLOCK, layout_of_model(self.directory, BLOCK))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--requests", type=int, default=32, help="in a batch (default: 32)")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer (default: 64)")
    parser.add_argument("--seeds", type=int, default=3, help="sets of requests (default: 3)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    torch.set_num_threads(1)  # the model is tiny: more would wait for each other
    report = Report("seeds", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    found: dict[str, list[dict[str, Any]]] = {}
    compiler = GrammarCompiler(lambda: Pieces(VOCABULARY))
    with tempfile.TemporaryDirectory() as folder:
        directory = make_model(Path(folder) / "model", vocab=VOCABULARY)
        bed = Bed(load_model(directory), directory, compiler)
        why_not = batch_dependence(bed.model, layout_of_model(directory, BLOCK))
        margins: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in range(arguments.seeds):
            asked = seeded_requests(seed, arguments.requests, arguments.tokens)
            alone = Texts()
            say(f"set {seed + 1}: alone ...")
            with bed.kvstore(asked) as kvstore:
                bed.play(kvstore, asked, alone, at_once=1)
            for place, draw in alone.draws.items():
                margins[_way(place[0])].append(draw.margin)
            for name, condition in CONDITIONS.items():
                say(f"set {seed + 1}: {name} ...")
                found.setdefault(name, []).append(compared(asked, alone, condition(bed, asked, alone)))
    compiler.close()
    report.figures["margins"] = {
        way: {"draws": len(all_), "least": min(all_), "p1": percentile(all_, 0.01)} for way, all_ in margins.items()
    }
    conditions = report.figures["conditions"] = {name: _sum(one) for name, one in found.items()}
    for key in ("moved", "moved_logits"):
        report.figures[key] = max(one[key] for one in conditions.values())
    rows: list[list[object]] = [[name, *(_said(one[key]) for key in _SHOWN)] for name, one in conditions.items()]
    report.tables.append(("texts beside those of the same requests alone", table(rows, ["", *_SHOWN.values()])))
    rows = [
        [way, one["draws"], _said(one["least"]), _said(one["p1"])] for way, one in report.figures["margins"].items()
    ]
    report.tables.append(("margins of the draws, alone", table(rows, ["", "draws", "least", "of one in a hundred"])))
    rows = [
        [name, *(_said(where[key]) for key in _WHERE)] for name, one in conditions.items() for where in one["differing"]
    ]
    if rows:
        report.tables.append(("where texts first differ", table(rows, ["", *_WHERE.values()])))
    report.notes += [
        f"{len(rows)} of {sum(one['texts'] for one in conditions.values())} texts differ. At most an end has moved by "
        f"{_said(report.figures['moved'])}, the distance of two logits by {_said(report.figures['moved_logits'])}.",
        "A margin is the distance of the uniform number to the nearer end of the interval of the token drawn; of a "
        "greedy token, that of its logit to the second. Moved: the most that such an end, or distance, differs from "
        "the same draw's alone. Where the least margin is above what was moved, no text can differ.",
        "By rule: the uniform number depends on seed, continuation and position alone. "
        + (
            f"Logits depend on the step here ({why_not}), by rounding. The chance that this changes a token is at most "
            "about twice what was moved, for each token drawn."
            if why_not
            else "Logits do not depend on the step here (`batch_invariant`), so nothing may have moved at all."
        ),
    ]
    report.figures["batch_invariant"] = not why_not
    return report


_SHOWN = {"texts": "texts", "differ": "differ", "moved": "ends moved", "moved_logits": "logits moved",
          "preemptions": "preemptions", "forced_tokens": "forced tokens"}  # fmt: skip
_WHERE = {"way": "way", "seed": "seed", "token": "token", "margin": "margin alone", "moved": "moved there",
          "moved_most": "moved at most in its batch"}  # fmt: skip


def _said(value: Any) -> object:
    return f"{value:.2g}" if isinstance(value, float) else value


def seeded_requests(seed: int, count: int, tokens: int) -> list[Generate]:
    """Requests of all ways in turn, prompts of 1 to ``LONGEST_PROMPT`` tokens, some of which begin alike."""
    rng, found = Random(f"seeds/{seed}"), []
    shared = [rng.randrange(FIRST_WORD, VOCABULARY) for _ in range(LONGEST_PROMPT // 2)]
    for number in range(count):
        prompt = [rng.randrange(FIRST_WORD, VOCABULARY) for _ in range(rng.randint(1, LONGEST_PROMPT))]
        prompt[: len(shared)] = shared if number % 3 == 0 else prompt[: len(shared)]
        how = Sampling(tokens, seed=len(WAYS) * (1000 * seed + number) + number % len(WAYS), ignore_eos=True)
        how = replace(how, **list(WAYS.values())[number % len(WAYS)])
        found.append(Generate(str(number), "bench", pack_u32(prompt), how))
    return found


def _way(seed: int) -> str:
    """Which of ``WAYS`` a request with this seed is."""
    return list(WAYS)[seed % len(WAYS)]


# --- conditions ------------------------------------------------------------------------------------------------------


def _batch(
    bed: Bed, asked: list[Generate], _: Texts, budget: int = BUDGET, share: float = 1.0, drafts: bool = True
) -> Texts:
    out = Texts()
    with ExitStack() as stack:
        if not drafts:
            stack.enter_context(patch.object(GrammarState, "foreseen", lambda *_: ()))
        bed.play(stack.enter_context(bed.kvstore(asked, share)), asked, out, budget)
    return out


def _cached(bed: Bed, asked: list[Generate], _: Texts) -> Texts:
    out = Texts()
    with bed.kvstore(asked, 2.0) as kvstore:
        bed.play(kvstore, asked, Texts())
        bed.play(kvstore, asked, out)
    return out


def _two_engines(bed: Bed, asked: list[Generate], _: Texts) -> Texts:
    out = Texts()
    with bed.kvstore(asked) as kvstore:
        for half in (asked[::2], asked[1::2]):
            bed.play(kvstore, half, out)
    return out


def _resumed(bed: Bed, asked: list[Generate], alone: Texts) -> Texts:
    half = asked[0].sampling.max_tokens // 2
    out = _batch(bed, [replace(one, emitted=pack_u32(alone.texts[one.request][:half])) for one in asked], alone)
    out.texts = {name: alone.texts[name][:half] + rest for name, rest in out.texts.items()}
    return out


CONDITIONS: dict[str, Callable[[Bed, list[Generate], Texts], Texts]] = {
    "one batch": _batch,
    f"in chunks, {CHUNK} tokens a step": partial(_batch, budget=CHUNK),
    "short of memory": partial(_batch, share=0.4),
    "found in the cache": _cached,
    "a half on each of two engines": _two_engines,
    "resumed half-way": _resumed,
    "without drafts": partial(_batch, drafts=False),
}


def compared(asked: list[Generate], alone: Texts, other: Texts) -> dict[str, Any]:
    """How the other run's texts and draws differ."""
    moved = {True: 0.0, False: 0.0}
    for place, draw in other.draws.items():
        if (same := alone.draws.get(place)) and same.token == draw.token:
            ends = zip(same.ends, draw.ends, strict=True)
            greedy = _way(place[0]) == "greedy"
            moved[greedy] = max(moved[greedy], *(abs(a - b) for a, b in ends))
    differing = [
        _first_difference(one, alone, other) for one in asked if other.texts[one.request] != alone.texts[one.request]
    ]
    return {
        "texts": len(asked),
        "differ": len(differing),
        "moved": moved[False],
        "moved_logits": moved[True],
        "preemptions": other.counters["preemptions"],
        "forced_tokens": other.counters["forced_tokens"],
        "differing": [one | {"moved_most": moved[one["way"] == "greedy"]} for one in differing],
    }


def _first_difference(asked: Generate, alone: Texts, other: Texts) -> dict[str, Any]:
    """Where a text first differs, and how near the decision was there: up to it all that the model was given is equal.

    The same number lay so far inside one token's interval, and now lies so far inside another's: what is between them
    has moved by both margins, at least. Behind the end of a text nothing was drawn, and there is no margin.
    """
    pair = alone.texts[asked.request], other.texts[asked.request]
    number = next(i for i, (one, two) in enumerate(zip_longest(*pair)) if one != two)
    place = (asked.sampling.seed, 0, len(asked.tokens) // 4 + number)
    before, after = alone.draws.get(place), other.draws.get(place)
    return {
        "request": asked.request,
        "way": _way(asked.sampling.seed),
        "seed": asked.sampling.seed,
        "token": number,
        "margin": before.margin if before else None,
        "moved": before.margin + after.margin if before and after else None,
    }


def _sum(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all sets: what is counted added up, the most of what was moved, and every difference."""
    total: dict[str, Any] = {}
    for key, value in found[0].items():
        every = [one[key] for one in found]
        if isinstance(value, list):
            total[key] = [item for one in every for item in one]
        else:
            total[key] = max(every) if isinstance(value, float) else sum(every)
    return total
