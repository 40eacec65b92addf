"""Decode graphs, all but the capture: static buffers refilled and padded give what an ungraphed step gives.

The capture here calls the captured function again, over the same buffers: what a GPU does with recorded launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.models.tiny import make_model
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.attention.triton import TritonAttention
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.graphs import CaptureRefused, CudaCapture, DecodeGraphs, Replay, padded
from quire_engine.model.model import Model, load_model
from tests.kernels.batch import DEVICE

BLOCK, BLOCKS, VOCAB = 16, 40, 64
# Plain; a window that cuts through the past; soft-cap and windows in every other layer.
MODELS = {"llama": {}, "mistral": {"window": 20}, "gemma2": {"window": 24, "head_dim": 16}}


def again(launch: Replay) -> Replay:
    """A capture that repeats the calls themselves."""
    return launch


def capture() -> object:
    """The real capture where the tests have a GPU."""
    return again if DEVICE.type == "cpu" else CudaCapture(DEVICE)


@dataclass
class Line:
    """A sequence that decodes: its tokens, table and fill."""

    tokens: list[int]
    table: np.ndarray
    done: int = 0


def model_of(tmp: Path, family: str) -> Model:
    """A tiny model on the device of the tests."""
    options = {"hidden": 32, "heads": 2, "kv_heads": 1, "vocab": VOCAB, **MODELS[family]}
    return load_model(make_model(tmp / family, family, **options), device=DEVICE)


def arena_of(model: Model, tmp: Path, family: str) -> torch.Tensor:
    """An arena full of NaN."""
    return torch.full(layout_of(tmp / family, "float32", BLOCK).shape(BLOCKS), torch.nan, device=DEVICE)


def lines() -> list[Line]:
    """Five sequences, the first three of which share two blocks; tables in no order."""
    draw = np.random.default_rng(1)
    free = list(draw.permutation(np.arange(1, BLOCKS)))
    shared = [free.pop(), free.pop()]
    head = draw.integers(7, VOCAB, 2 * BLOCK).tolist()
    found = []
    for i, length in enumerate((37, 40, 50, 3, 31)):
        begin, table = (head, shared) if i < 3 else ([], [])
        tokens = [*begin, *draw.integers(7, VOCAB, length - len(begin)).tolist()]
        found.append(Line(tokens, np.array(table + [free.pop() for _ in range(5 - len(table))], np.int32)))
    return found


def plan_of(running: list[Line]) -> AttentionPlan:
    """All tokens of each sequence that are not computed yet."""
    counts = [len(line.tokens) - line.done for line in running]
    return build_plan([line.table for line in running], [line.done for line in running], counts, BLOCK)


def step(model: Model, running: list[Line], graphs: DecodeGraphs | None) -> torch.Tensor:
    """One step, replayed if ``graphs`` can; logits of each sequence's last token."""
    plan = plan_of(running)
    tokens = torch.tensor([t for line in running for t in line.tokens[line.done :]], device=DEVICE)
    logits = graphs.forward(tokens, plan) if graphs else None
    if logits is None:
        logits = model.forward(tokens, plan, torch.from_numpy(np.cumsum(plan.counts) - 1))
    for line, best in zip(running, logits.argmax(-1).tolist(), strict=True):
        line.done = len(line.tokens)
        line.tokens.append(best)
    return logits.clone()


def decode(model: Model, arena: torch.Tensor, graphed: bool) -> tuple[list[torch.Tensor], list[Line], int]:
    """Prefill all, then decode steps in which sequences leave and come back; logits, sequences, replays."""
    backend = TritonAttention(arena, model.heads)
    model.use(backend)
    graphs = DecodeGraphs(model, backend, 8, capture()) if graphed else None  # type: ignore[arg-type]
    if graphs:
        graphs.make()
    running = lines()
    for line in running[1:3]:
        line.done = 2 * BLOCK  # computed by the first
    found = [step(model, running[:1], graphs), step(model, running[1:], graphs)]
    for members in ([0, 1, 2, 3, 4], [4, 2, 0], [3], [1, 0, 2], [0, 1, 2, 3, 4], [2, 3, 4, 1, 0]):
        found.append(step(model, [running[i] for i in members], graphs))
    return found, running, graphs.replays if graphs else 0


@pytest.mark.parametrize("family", ["llama", pytest.param("mistral", marks=pytest.mark.slow), "gemma2"])
def test_replayed_steps_equal_ungraphed_ones(family: str, tmp_path: Path) -> None:
    """Batches that shrink, grow and change order, over shared and private blocks: same logits, tokens and arena."""
    model = model_of(tmp_path, family)
    arenas = [arena_of(model, tmp_path, family) for _ in range(2)]
    plain, plain_lines, _ = decode(model, arenas[0], graphed=False)
    replayed, replayed_lines, replays = decode(model, arenas[1], graphed=True)
    assert replays == 6  # all but the prefills
    for one, other in zip(plain, replayed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert [line.tokens for line in plain_lines] == [line.tokens for line in replayed_lines]
    torch.testing.assert_close(*arenas, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert arenas[1][:, :, :, 0].isnan().all(), "a padded row was stored"


def test_what_does_not_fit_runs_without_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill chunks, more sequences than graphs were made for, and more blocks than a buffer holds."""
    model = model_of(tmp_path, "llama")
    backend = TritonAttention(arena_of(model, tmp_path, "llama"), model.heads)
    model.use(backend)
    monkeypatch.setattr("quire_engine.model.graphs.decode_graphs.TABLE_ENTRIES", 12)
    graphs = DecodeGraphs(model, backend, 4, capture())  # type: ignore[arg-type]
    graphs.make()
    running = lines()
    chunk = torch.tensor(running[0].tokens, device=DEVICE)
    assert graphs.forward(chunk, plan_of(running[:1])) is None
    for line in running:
        line.done = len(line.tokens) - 1
    many = torch.zeros(5, dtype=torch.int64, device=DEVICE)
    assert graphs.forward(many, plan_of(running)) is None

    plan = plan_of(running[:3])
    assert graphs.forward(many[:3], plan) is None
    assert plan.prepared == {}
    assert graphs.replays == 0


def test_captures_store_nothing_and_begin_with_the_largest(tmp_path: Path) -> None:
    """Before the first request there is one of each size, and the arena holds what it held."""
    model = model_of(tmp_path, "llama")
    arena = arena_of(model, tmp_path, "llama")
    backend = TritonAttention(arena, model.heads)
    model.use(backend)
    made: list[int] = []

    def noting(launch: Replay) -> Replay:
        launch()
        made.append(launch.__self__._rows)  # type: ignore[attr-defined]
        return launch

    DecodeGraphs(model, backend, 9, noting).make()
    assert made == [16, 8, 4, 2, 1]
    assert arena.isnan().all()


def test_a_model_that_cannot_be_captured_goes_on_without_graphs(tmp_path: Path) -> None:
    """A refused capture turns graphs off for good, and a step is left as if none had been tried."""
    model = model_of(tmp_path, "llama")
    backend = TritonAttention(arena_of(model, tmp_path, "llama"), model.heads)
    model.use(backend)

    def refuse(launch: Replay) -> Replay:
        raise CaptureRefused("operation not permitted when stream is capturing")

    graphs = DecodeGraphs(model, backend, 4, refuse)
    graphs.make()
    assert "not permitted" in graphs.why_none
    running = lines()[:2]
    for line in running:
        line.done = len(line.tokens) - 1
    plan = plan_of(running)
    assert graphs.forward(torch.zeros(2, dtype=torch.int64, device=DEVICE), plan) is None
    assert plan.prepared == {}


@pytest.mark.parametrize(
    "kind", ["dynamic", "longrope", {"full_attention": "default", "sliding_attention": "longrope"}]
)
def test_positions_that_the_host_looks_at_are_not_tried(kind: str | dict[str, str], tmp_path: Path) -> None:
    """Of a model with such rotary positions nothing is captured; of others all."""
    model = model_of(tmp_path, "llama")
    backend = TritonAttention(arena_of(model, tmp_path, "llama"), model.heads)
    model.use(backend)
    tried: list[Replay] = []

    def note(launch: Replay) -> Replay:
        tried.append(launch)
        return launch

    DecodeGraphs(model, backend, 2, note).make()
    assert len(tried) == 2
    model.module.model.rotary_emb.rope_type = kind
    graphs = DecodeGraphs(model, backend, 2, note)
    graphs.make()
    assert len(tried) == 2
    assert "rotary positions" in graphs.why_none


def test_full_memory_is_no_property_of_the_model(tmp_path: Path) -> None:
    """It goes on as what it is, instead of turning graphs off."""
    model = model_of(tmp_path, "llama")
    backend = TritonAttention(arena_of(model, tmp_path, "llama"), model.heads)
    model.use(backend)

    def full(launch: Replay) -> Replay:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        DecodeGraphs(model, backend, 2, full).make()


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 16), (64, 64), (65, 96), (256, 256), (257, 288)]
)
def test_padded_sizes(rows: int, size: int) -> None:
    """The next power of two up to 4, then the next multiple of 8, and of 32 above 64."""
    assert padded(rows) == size
