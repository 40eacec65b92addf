"""``quire bench grammars``: what it costs a decode step that all its rows are held to a grammar.

The same engine decodes the same prompts, free and held to a JSON schema, in interleaved rounds. In steps of the latter
the parts that grammars add are timed: waiting for masks, laying them on logits, accepting tokens, and looking for what
is forced. There nothing is drafted; in a third run the engine drafts what the grammar forces. A second table has a
compact tool call both ways, alone and among others; a third masks by the size of the vocabulary, without a model.
"""

from __future__ import annotations

import argparse
import json
import time
from random import Random
from typing import Any

import numpy as np
import torch

from bench.models.sizes import REAL, SIZES
from bench.report.figures import Report, machine, median, say, table
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.mask_rows import MaskRows, words_of
from quire_engine.model.token_masks import TokenMasks
from quire_proto.gateway_link import Sampling

from .held_rows import HeldRows, Pieces
from .tool_calls import tool_calls

SCHEMA = {
    "type": "array",
    "minItems": 1000,  # an answer is cut off before its end, so that every step has all rows
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "days": {"type": "integer", "minimum": 0},
            "kind": {"enum": ["hotel", "flight", "train"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "days", "kind"],
        "additionalProperties": False,
    },
}
GRAMMAR = json.dumps({"grammars": [{"json_schema": SCHEMA}]})
VOCABULARIES = (8_000, 32_000, 128_000)
STEPS = 48
PARTS = ("wait", "lay", "accept", "look")
KINDS = ("free", "held", "drafted")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument(
        "--model", choices=(*SIZES, REAL), default="27m", help="random Llama of this size, or the real one"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads (0: torch's default)")
    parser.add_argument("--rows", type=int, default=64, help="sequences of a step (default: 64)")
    parser.add_argument("--prompt", type=int, default=400, help="tokens of a prompt (default: 400)")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved rounds (default: 5)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = Report("grammars", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    report.settings["threads"] = torch.get_num_threads()
    held = HeldRows(arguments.model)
    report.settings["vocabulary"] = held.model.vocab_size
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for pair in range(arguments.pairs):
        for kind in KINDS if pair % 2 == 0 else KINDS[::-1]:
            say(f"round {pair + 1}: {kind} ...")
            found[kind].append(_decode(held, arguments, kind))
    step = median(one["wall"] for one in found["held"])
    figures: dict[str, Any] = {name: {key: median(one[key] for one in rounds) for key in rounds[0]}
                               for name, rounds in found.items()}  # fmt: skip
    figures["parts_share"] = sum(figures["held"][part] for part in PARTS) / step
    figures["held_over_free"] = median(
        one["wall"] / free["wall"] for one, free in zip(found["held"], found["free"], strict=True)
    )
    report.figures["steps"] = figures
    shown: tuple[str, ...] = ("wall", *PARTS, "ms_per_token")
    rows: list[list[object]] = [[name, *(figures[name][key] for key in shown)] for name in found]
    heading = f"a decode step of {arguments.rows} rows, milliseconds"
    headings = ["rows", "step", "wait for masks", "lay masks", "accept tokens", "look for forced", "a token"]
    report.tables.append((heading, table(rows, headings)))
    calls = report.figures["calls"] = tool_calls(held, arguments.rows, arguments.pairs)
    columns = ("calls", "way", "tokens", "forced", "tokens_a_step", "ms")
    headings = ["calls at once", "", "tokens", "forced", "tokens a step", "ms a call"]
    report.tables.append(("a compact tool call", table([[one[key] for key in columns] for one in calls], headings)))
    report.figures["masks"] = [_masks(size, arguments.rows) for size in VOCABULARIES]
    columns = ("vocabulary", "read_ms", "compile_ms", "fill_us", "lay_us")
    rows = [[int(one["vocabulary"]), *(one[key] for key in columns[1:])] for one in report.figures["masks"]]
    headings = ["vocabulary", "read it, ms", "compile, ms", "fill, us a row", "lay, us a row"]
    report.tables.append((f"masks of {arguments.rows} rows, one thread", table(rows, headings)))
    report.notes += [
        f"What grammars add is {figures['parts_share']:.1%} of a step; held / free = {figures['held_over_free']:.3f}.",
        "All rows draw greedily. Masks are filled on a thread beside the step, so that only waiting costs.",
        "Drafted: its step is one with drafts of some rows, or of none.",
        "A tool call's time is from its arrival to its last token, its prompt included; tokens a step are "
        "those of the call over the steps in which it computed anything, that of its prompt included. Random models' "
        "vocabularies are bytes and pieces of words, and a forced text is a token a letter there; the real one's are "
        "its own.",
    ]
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


def _decode(held: HeldRows, arguments: argparse.Namespace, kind: str) -> dict[str, float]:
    """Medians over the decode steps of a run, in milliseconds, and its time for each token of a row."""
    grammar = "" if kind == "free" else GRAMMAR
    sampling = Sampling(STEPS, temperature=0.0, ignore_eos=True, grammar=grammar.encode())
    run = held.play(held.requests(arguments.rows, arguments.prompt, sampling), drafts=kind == "drafted")
    steps = [step for step in run.steps if step["rows"] == step["sequences"] == arguments.rows]
    found = {part: 1000 * median(step.get(part, 0.0) for step in steps) for part in ("wall", "draw", "choose", *PARTS)}
    found["wait"] = max(0.0, found.pop("draw") - found.pop("choose"))
    seen = run.seen.values()
    found["ms_per_token"] = 1000 * (max(s.tokens[-1] for s in seen) - max(s.tokens[0] for s in seen)) / (STEPS - 1)
    return found


def _masks(size: int, rows: int) -> dict[str, float]:
    """Masks over a vocabulary along ``STEPS`` random tokens of each row."""
    vocabulary = Pieces(size)
    compiler = GrammarCompiler(lambda: vocabulary)
    assert len(vocabulary.spelled) == size, "made before the clock runs"
    began = time.perf_counter()
    compiler.compile("t", 'start: "a"').result()
    read = time.perf_counter() - began
    began = time.perf_counter()
    grammar = compiler.compile("t", GRAMMAR).result()
    compiled = time.perf_counter() - began
    states, filler, chance = [grammar.after([]) for _ in range(rows)], MaskRows(size), Random(5)
    words, logits = torch.zeros((rows, words_of(size)), dtype=torch.int32), torch.randn(rows, size)
    fills, lays = [], []
    for _ in range(STEPS):
        began = time.perf_counter()
        filler.fill([(state, ()) for state in states], words.numpy())
        fills.append(time.perf_counter() - began)
        began = time.perf_counter()
        TokenMasks(range(rows), range(rows), words).apply(logits)
        lays.append(time.perf_counter() - began)
        bits = np.unpackbits(words.numpy().view(np.uint8), axis=1, bitorder="little")
        for place, state in enumerate(states):
            state.accept([chance.choice(np.flatnonzero(bits[place]).tolist())])
    compiler.close()
    return {
        "vocabulary": float(size),
        "read_ms": 1e3 * read,
        "compile_ms": 1e3 * compiled,
        "fill_us": 1e6 * median(fills) / rows,
        "lay_us": 1e6 * median(lays) / rows,
    }
