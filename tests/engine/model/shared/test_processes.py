"""What processes that load the same model have for themselves, and what comes of it when one is killed on the way."""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import torch

from bench.models.tiny import make_model
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import load_model
from quire_engine.model.shared.shared_model import WeightsPlace, load_shared_model
from tests.support.children import python_child
from tests.support.host_library import need_host_library

SHARE = 0.15  # of the weights, at most, is a second engine's own

# python -c ENGINE WARM MODEL DTYPE PLACE: loads, computes, and at each line that it gets says what is its own by now.
# What is freed goes back to the system at once: what an allocator keeps for later is not what a model keeps.
ENGINE = """
import ctypes, sys
from pathlib import Path
ctypes.CDLL(None).mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD
import structlog, torch
from tests.engine.model.shared.own_memory import own_bytes
from tests.engine.model.shared.test_processes import loaded, logits

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
torch.set_num_threads(1)
warm, model, dtype, place = sys.argv[1:]
logits(loaded(Path(warm), dtype, None))
logits(loaded(Path(warm), dtype, Path(warm) / "weights"))  # written by the first, mapped by the second
before = own_bytes(Path(model), Path(place))
found = loaded(Path(model), dtype, Path(place) if place != "none" else None)
logits(found)
print("loaded", flush=True)
for line in sys.stdin:
    now = own_bytes(Path(model), Path(place))
    print(*((now[i] - before[i]) / found.weight_bytes for i in range(2)), flush=True)
"""
# Stops for good at a stage of writing an entry.
HALTED = """
import sys
from pathlib import Path
import structlog
from quire_engine.checkpoint.shared.directory import EntryDraft
from quire_engine.model.shared.tensors import TensorsAsPieces
from tests.engine.model.shared.test_processes import loaded

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

def halt(*_):
    print("halted", flush=True)
    sys.stdin.read()

whole = TensorsAsPieces.pieces
def half(self):
    for number, piece in enumerate(whole(self)):
        if number == len(self.sizes) // 2:
            halt()
        yield piece

if sys.argv[3] == "half":
    TensorsAsPieces.pieces = half
else:
    EntryDraft.publish = halt
loaded(Path(sys.argv[1]), "float32", Path(sys.argv[2]))
"""


def loaded(directory: Path, dtype: str, place: Path | None):
    """The model in ``directory``, as an engine loads it."""
    return load_shared_model(directory, dtype, "cpu", layout_of(directory, dtype, 16).weights, WeightsPlace(place, 0))


def logits(model) -> torch.Tensor:
    """Of a few tokens: every page of the weights is read for it."""
    model.module.set_attn_implementation("eager")
    with torch.inference_mode():
        found: torch.Tensor = model.module(input_ids=torch.arange(8).unsqueeze(0), use_cache=False).logits
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model and one of 27 million weights."""
    base = tmp_path_factory.mktemp("models")
    large = {"layers": 8, "hidden": 512, "heads": 8, "kv_heads": 4, "vocab": 8000}
    return make_model(base / "tiny"), make_model(base / "large", **large)


def engine(models: tuple[Path, Path], dtype: str, place: object) -> AbstractContextManager[subprocess.Popen[str]]:
    warm, model = map(str, models)
    return python_child(ENGINE, warm, model, dtype, str(place), says="loaded", seconds=120)


def own_shares(child: subprocess.Popen[str]) -> tuple[float, float]:
    """What a loaded model has added to what is a process's own, as a share of its weights: copies, and pages of files
    that no other process maps by now."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    copied, alone = map(float, child.stdout.readline().split())
    return copied, alone


def test_a_second_process_has_next_to_no_weights_of_its_own(models, tmp_path) -> None:
    """Where a first one, this one, has converted and packed them."""
    need_host_library()
    first = loaded(models[1], "bfloat16", tmp_path / "weights")
    expected = logits(first)
    with engine(models, "bfloat16", tmp_path / "weights") as second:
        assert sum(own_shares(second)) < SHARE
    assert torch.equal(logits(first), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nor_does_the_first_keep_a_copy_of_its_own(models, dtype, tmp_path) -> None:
    """Packed in the checkpoint's own type, and converted and packed."""
    need_host_library()
    with ExitStack() as running:
        first, second = (running.enter_context(engine(models, dtype, tmp_path / "weights")) for _ in range(2))
        assert sum(own_shares(second)) < SHARE
        copied, _ = own_shares(first)
        assert copied < SHARE


@pytest.mark.slow
def test_without_a_place_each_process_has_all_of_them(models) -> None:
    """So what is measured is what it is said to be."""
    need_host_library()
    with ExitStack() as running:
        _, second = (running.enter_context(engine(models, "bfloat16", "none")) for _ in range(2))
        copied, _ = own_shares(second)
        assert copied > 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["half", "unpublished"])
def test_a_writer_that_is_killed_leaves_nothing_half_read(models, stage, tmp_path) -> None:
    """kill -9 between two tensors, or when all are written: the next engine writes them anew, and all is right."""
    model, place = models[0], tmp_path / "weights"
    with python_child(HALTED, str(model), str(place), stage, says="halted", seconds=120) as writer:
        (draft,) = place.iterdir()
        assert draft.suffix == ".draft"
        writer.kill()
        writer.wait()
    expected = logits(load_model(model))
    for _ in range(2):
        found = loaded(model, "float32", place)
        assert found.weights_private == ""
        assert torch.equal(logits(found), expected)
    (entry,) = place.iterdir()
    assert entry.suffix == ".weights"
