"""Answers under random JSON schemas where memory is short: four of each prompt, computed in chunks, preempted.

They are those of a pool in which nothing is preempted, token by token, but for rounding: batches of other sizes move
boundaries between tokens by some millionths. So a text may differ from a draw on that was nearer to one than that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import zip_longest
from math import inf
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.branches.draws import Draw, Place, watched
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.grammar.compiler import GrammarCompiler, GrammarRefused
from quire_engine.grammar.grammar import Grammar
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Launched, Runner
from quire_engine.sequences.step_plan import Work
from quire_proto.client.client import KVClient
from quire_services.gateway.tools.grammar.content_format import content_format_of
from tests.services.gateway.tools.random_schemas import random_object
from tests.support.engine_loop import VOCAB, engine_on, kvstore, words
from tests.support.grammars import Letters

pytestmark = pytest.mark.process
LETTERS = Letters(VOCAB)
PROMPT = 150  # tokens: more than two steps' budgets of 64
BRANCHES = 4
ROUNDING = 1e-5
LONGEST = 160  # tokens of an answer
SHORT, ROOMY = 40, 700  # blocks of 16 tokens; a prompt and its four longest answers want 50


class PiecesSeen(Runner):
    """A runner that counts the pieces in which each request's prompt is computed."""

    def __init__(self, model: Model, client: KVClient, seen: Counter[str]) -> None:
        super().__init__(model, CpuAttention(arena_of(client)))
        self._seen = seen

    def launch(self, work: list[Work], copies: list[tuple[int, int, int]]) -> Launched:
        """Note the step's pieces of prompts, then begin to compute it."""
        self._seen.update(item.sequence.request.id for item in work if item.sequence.launched < PROMPT)
        return super().launch(work, copies)


@dataclass(frozen=True)
class Answers:
    """What came of all continuations, by request and index, and how the engine got there."""

    tokens: dict[tuple[str, int], list[int]]
    ends: dict[tuple[str, int], tuple[str, str]]  # finish, and the code of an error
    draws: dict[Place, Draw]
    pieces: Counter[str]
    preemptions: int


def grammar_of(schema: Any) -> str:
    """What the gateway makes of a schema in a request's ``response_format``."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    content = content_format_of(wanted)
    assert content is not None
    return content.grammar()


def answered(tmp: Path, blocks: int, schemas: dict[str, Any], compiler: GrammarCompiler) -> Answers:
    """The answers of an engine over a pool of so many blocks, all asked for at once."""
    pieces: Counter[str] = Counter()
    draws: dict[Place, Draw] = {}

    def make_runner(model: Model, client: KVClient) -> Runner:
        return PiecesSeen(model, client, pieces)

    with kvstore(tmp, blocks) as (run_dir, model_dir), watched(draws):
        with engine_on(run_dir, model_dir, make_runner, compiler=compiler) as (engine, front):
            for name, schema in schemas.items():
                how = {"temperature": 1.0, "seed": int(name), "max_tokens": LONGEST, "ignore_eos": False}
                front.ask(name, words(PROMPT, int(name)), BRANCHES, grammar=grammar_of(schema).encode(), **how)
            ends = {(name, index): front.end(name, index) for name in schemas for index in range(BRANCHES)}
            preemptions = engine.load().counters["preemptions"]
    finishes = {key: (end.finish, end.code) for key, end in ends.items()}
    return Answers(front.tokens, finishes, draws, pieces, preemptions)


def margin_where_differing(calm: Answers, pressed: Answers, key: tuple[str, int]) -> float:
    """Of the draw of the first token that differs."""
    pairs = zip_longest(calm.tokens[key], pressed.tokens[key])
    at = next(place for place, (one, other) in enumerate(pairs) if one != other)
    draw = calm.draws.get((int(key[0]), key[1], PROMPT + at))
    return draw.margin if draw else inf  # it had ended before


def usable(compiler: GrammarCompiler, seeds: range) -> Iterator[tuple[str, Any, Grammar]]:
    """Random schemas that answers can be held to, by seed, with their grammars."""
    for seed in seeds:
        with suppress(GrammarRefused):
            yield str(seed), (schema := random_object(seed)), compiler.compile("any", grammar_of(schema)).result()


def check(tmp: Path, seeds: range) -> None:
    with closing(GrammarCompiler(lambda: LETTERS)) as compiler:
        asked = {name: (schema, grammar) for name, schema, grammar in usable(compiler, seeds)}
        schemas = {name: schema for name, (schema, _) in asked.items()}
        calm = answered(tmp / "roomy", ROOMY, schemas, compiler)
        pressed = answered(tmp / "short", SHORT, schemas, compiler)
    assert calm.preemptions == 0
    assert pressed.preemptions > len(asked)
    assert min(calm.pieces[name] for name in asked) > 2
    differing = {key for key, tokens in calm.tokens.items() if pressed.tokens[key] != tokens}
    assert all(margin_where_differing(calm, pressed, key) < ROUNDING for key in differing)
    assert all(pressed.ends[key] == end for key, end in calm.ends.items() if key not in differing)
    for (name, index), tokens in pressed.tokens.items():
        schema, grammar = asked[name]
        text = LETTERS.text(tokens)
        if pressed.ends[name, index] == ("stop", ""):
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))
        else:
            assert pressed.ends[name, index] == ("length", "")
            assert len(tokens) == LONGEST
            assert grammar.after([]).matcher.validate_tokens(tokens) == LONGEST, text
    ends = Counter(finish for finish, _ in pressed.ends.values())
    print(f"{len(asked)} schemas, {dict(ends)}, {pressed.preemptions} preemptions, {len(differing)} differ")
    assert len(asked) > 0.7 * len(seeds)
    assert ends["stop"] > ends["length"] > 0


def test_some_answers_under_pressure(tmp_path: Path) -> None:
    """A sample of the next."""
    check(tmp_path, range(6))


@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=pytest.mark.soak if first else pytest.mark.slow) for first in range(0, 300, 50)],
)
def test_answers_under_pressure(tmp_path: Path, first: int) -> None:
    """Preempted answers are those of a roomy pool; what is finished is valid, what is cut could go on."""
    check(tmp_path, range(first, first + 50))
