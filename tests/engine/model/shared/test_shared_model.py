"""Engines of one host compute with one copy of the weights, and with the numbers that each would have by itself."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.families.cases import all_cases
from bench.families.trial import make_checkpoint
from bench.models.tiny import make_model
from quire_engine.checkpoint.layout import layout_of
from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.shared.directory import WeightsDirectory
from quire_engine.model.model import Model, load_model
from quire_engine.model.selftest.selftest import self_test
from quire_engine.model.shared import shared_model
from quire_engine.model.shared.description import FUSED
from quire_engine.model.shared.shared_model import WeightsPlace, load_shared_model
from tests.engine.model.test_quantised import fp8_blocks, fp8_channels, int4_groups
from tests.support.families import FAMILIES, family_model
from tests.support.host_library import need_host_library
from tests.support.mapped_weights import memory_of, own_logits
from tests.support.repository import child_environ

CASES = all_cases()
SOON = {("gemma2", "bfloat16"), ("qwen2", "float32")}  # each time; the others take longer than they tell
LONGER = pytest.mark.slow
OTHERS = (
    "gpt2", "gpt_oss", "olmo2", "qwen3_moe", "mixtral", "granitemoe", "gemma3", "llava", "qwen2_5_vl",
    "deepseek_v3", "minicpm3", "phi3-longrope", "llama-dynamic", "opt", "stablelm",
)  # fmt: skip


def load(directory: Path, dtype: str, place: WeightsPlace) -> Model:
    return load_shared_model(directory, dtype, "cpu", layout_of(directory, dtype, 16).weights, place)


def logits(model: Model) -> torch.Tensor:
    """Of some tokens, under the model's own attention."""
    return own_logits(model, 48)


def rights(tensor: torch.Tensor) -> str:
    """Those of the memory that a tensor lies in, and the file's name."""
    found, file = memory_of(tensor)
    return f"{found} {Path(file).suffix}"


def weights_of(model: Model) -> list[torch.Tensor]:
    """All tensors that are as large as weights: parameters, and what fused layers have of their own."""
    parts = [layer.parts() for layer in model.module.modules() if type(layer) in FUSED.values()]
    tensors = [tensor for part in parts for each in part.tensors.values() for tensor in each]
    return [tensor for tensor in [*tensors, *model.module.parameters()] if tensor.numel()]


def same_numbers(directory: Path, dtype: str, place: WeightsPlace) -> tuple[Model, Model]:
    """The first and the second engine's model, which compute what a model of one's own does."""
    own = load_model(directory, dtype)
    first, second = load(directory, dtype, place), load(directory, dtype, place)
    expected = logits(own)
    assert torch.isfinite(expected).all()
    for model in (first, second):
        assert model.weights_private == ""
        assert torch.equal(logits(model), expected)
        assert (model.weight_bytes, model.quantised, model.eos_ids) == (own.weight_bytes, own.quantised, own.eos_ids)
        assert {rights(tensor) for tensor in weights_of(model)} <= {"r--s .weights", "r--s .safetensors"}
    kinds = [[(path, type(layer)) for path, layer in model.module.named_modules()] for model in (own, second)]
    assert kinds[0] == kinds[1]
    return first, second


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param(family, dtype, marks=[] if (family, dtype) in SOON else LONGER)
        for family in FAMILIES
        for dtype in ("float32", "bfloat16")
    ],
)
def test_engines_that_share_compute_the_same(family: str, dtype: str, tmp_path: Path) -> None:
    """To the last bit, with the same layers, all over mappings that cannot be written, and the self-test passes."""
    directory = family_model(tmp_path, family)
    _, second = same_numbers(directory, dtype, WeightsPlace(tmp_path / "weights", 0))
    self_test(second, layout_of(directory, dtype, 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_share_too(name: str, tmp_path: Path) -> None:
    """Mixtures, latents, text parts of what sees images, layers that are not packed: as their checkpoint loads."""
    make_checkpoint(CASES[name], tmp_path / "model")
    same_numbers(tmp_path / "model", "bfloat16", WeightsPlace(tmp_path / "weights", 0))


@pytest.mark.parametrize(
    "quantise", [fp8_blocks, pytest.param(int4_groups, marks=LONGER), pytest.param(fp8_channels, marks=LONGER)]
)
def test_what_was_quantised_is_shared_as_floats(quantise: Callable[[Path], object], tmp_path: Path) -> None:
    """Turned back into floats once; engines that map them need no library that does so."""
    if quantise is not fp8_blocks:
        pytest.importorskip("compressed_tensors")
    directory = make_model(tmp_path / "model", hidden=64, heads=2, kv_heads=1, vocab=96, max_len=128)
    quantise(directory)
    _, second = same_numbers(directory, "bfloat16", WeightsPlace(tmp_path / "weights", 0))
    assert second.quantised.startswith("dequantised from ")


def test_what_is_used_as_it_is_stays_in_the_checkpoint(tmp_path: Path) -> None:
    """In the checkpoint's own type embedding and norms are its file's pages; what is packed lies in the entry alone."""
    need_host_library()
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)
    _, second = same_numbers(directory, "float32", place)
    assert rights(second.module.get_input_embeddings().weight) == "r--s .safetensors"
    packed = second.module.model.layers[0].mlp.down_proj.product.weight.panels
    assert rights(packed) == "r--s .weights"
    (entry,) = (tmp_path / "weights").iterdir()
    embedding = second.module.get_input_embeddings().weight.nbytes
    assert entry.stat().st_size < second.weight_bytes + embedding  # the head's packed copy, and no embedding


def test_types_do_not_mix(tmp_path: Path) -> None:
    """One entry for each type that is computed in."""
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)
    models = [load(directory, dtype, place) for dtype in ("float32", "bfloat16", "float32")]
    assert [model.module.dtype for model in models] == [torch.float32, torch.bfloat16, torch.float32]
    assert torch.equal(logits(models[0]), logits(models[2]))
    assert len(list((tmp_path / "weights").iterdir())) == 2


def test_changed_weights_are_loaded_anew(tmp_path: Path) -> None:
    """Another checkpoint in the place of the first is never answered from the first one's entry."""
    place = WeightsPlace(tmp_path / "weights", 0)
    first = load(make_model(tmp_path / "model", seed=1), "float32", place)
    second = load(make_model(tmp_path / "model", seed=2), "float32", place)
    assert torch.equal(logits(second), logits(load_model(tmp_path / "model")))
    assert not torch.equal(logits(first), logits(second))


def test_a_damaged_entry_costs_a_load_and_nothing_else(tmp_path: Path) -> None:
    """It is noticed and written anew."""
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)
    expected = logits(load(directory, "float32", place))
    (entry,) = (tmp_path / "weights").iterdir()
    content = entry.read_bytes()
    entry.write_bytes(content[:-4096] + bytes(4096))
    again = load(directory, "float32", place)
    assert again.weights_private == ""
    assert torch.equal(logits(again), expected)
    assert entry.read_bytes() == content


def test_a_model_that_would_compute_otherwise_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was put together is held against what was loaded; the next engine does not try again, nor wait."""
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)
    right = shared_model.put_together

    def wrong(*arguments: object) -> torch.nn.Module:
        module = right(*arguments)  # type: ignore[arg-type]
        norm = module.model.norm
        norm.weight = torch.nn.Parameter(norm.weight * 2, requires_grad=False)
        if hasattr(norm, "_factors"):
            norm._factors = norm._factors * 2
        return module

    monkeypatch.setattr(shared_model, "put_together", wrong)
    for _ in range(2):
        model = load(directory, "float32", place)
        assert "other numbers" in model.weights_private
        assert torch.equal(logits(model), logits(load_model(directory)))
        monkeypatch.setattr(shared_model, "_written", None)


def test_a_model_that_cannot_be_taken_apart_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that loading adds, for one."""
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)
    plain = load_model

    def odd(*arguments: object) -> Model:
        model = plain(*arguments)  # type: ignore[arg-type]
        model.module.register_buffer("extra", torch.ones(3))
        return model

    monkeypatch.setattr(shared_model, "load_model", odd)
    assert "buffer extra" in load(directory, "float32", place).weights_private
    monkeypatch.setattr(shared_model, "load_model", plain)
    assert "buffer extra" in load(directory, "float32", place).weights_private


def test_a_refused_model_leaves_nothing(tmp_path: Path) -> None:
    """No entry and no draft that others would wait for."""
    directory = make_model(tmp_path / "model")
    fields = (directory / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    (directory / "config.json").write_text(fields)
    with pytest.raises(ModelRefused):
        load(directory, "float32", WeightsPlace(tmp_path / "weights", 0))
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (lambda _: WeightsPlace(None), "engine.weights_dir is none"),
        (lambda tmp: WeightsPlace(tmp / "weights"), "not worth a file"),
        (lambda tmp: WeightsPlace(tmp / "file" / "weights", 0), "file cannot be written"),
    ],
)
def test_where_nothing_can_be_shared_each_has_its_own(place, reason, tmp_path) -> None:
    """The reason is told, and the model is served."""
    (tmp_path / "file").write_text("")
    directory = make_model(tmp_path / "model")
    model = load(directory, "float32", place(tmp_path))
    assert reason in model.weights_private
    assert torch.equal(logits(model), logits(load_model(directory)))


def test_a_full_disk_found_late_costs_a_second_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were given up for a file that could not be finished are loaded again."""
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("quire_engine.checkpoint.shared.entry.os.fsync", fail)
        model = load(directory, "float32", place)
    assert model.weights_private.endswith(".weights: No space left on device")
    assert torch.equal(logits(model), logits(load_model(directory)))
    assert list((tmp_path / "weights").iterdir()) == []
    assert load(directory, "float32", place).weights_private == ""


WRITES = """
import sys, torch
from pathlib import Path
from tests.engine.model.shared.test_shared_model import load, weights_of
from quire_engine.model.shared.shared_model import WeightsPlace
model = load(Path(sys.argv[1]), "float32", WeightsPlace(Path(sys.argv[2]), 0))
assert model.weights_private == ""
print("loaded", flush=True)
max(weights_of(model), key=lambda tensor: tensor.numel()).detach().mul_(2)
"""


@pytest.mark.slow
def test_a_process_that_writes_to_shared_weights_ends(tmp_path: Path) -> None:
    """And changes nothing for the others."""
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)
    model = load(directory, "float32", place)
    before = logits(model)
    done = subprocess.run(
        [sys.executable, "-c", WRITES, str(directory), str(tmp_path / "weights")],
        env=child_environ(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout.splitlines()[-1:], done.returncode) == (["loaded"], -signal.SIGSEGV), done.stderr
    assert torch.equal(logits(model), before)


def test_an_entry_is_no_longer_in_use_once_its_model_is_gone(tmp_path: Path) -> None:
    """So that it can be removed."""
    directory, place = make_model(tmp_path / "model"), WeightsPlace(tmp_path / "weights", 0)
    model = load(directory, "float32", place)
    store = WeightsDirectory(tmp_path / "weights")
    assert store.unused() == []
    del model
    gc.collect()
    assert len(store.unused()) == 1
