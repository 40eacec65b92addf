"""Pools that store keys and values as e4m3: both backends store and read alike; the self-test proves or refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.models.tiny import make_model
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.cpu.slots import Slots
from quire_engine.backends import TRITON, BackendChoice, BackendRefused
from quire_engine.checkpoint.kv_scales import FILE, KvScales
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import Model, ModelRefused, load_model
from quire_engine.model.selftest.selftest import self_test
from quire_proto.wire.layout import E4M3, Layout
from tests.support.families import FAMILIES, family_model


def loaded(path: Path, dtype: str = "float32") -> tuple[Model, Layout]:
    """A model and the layout of an e4m3 pool for it."""
    return load_model(path, dtype), layout_of(path, E4M3, 16)


def on_cpu(model: Model, layout: Layout) -> None:
    """The self-test of the CPU backend."""
    self_test(model, layout, lambda arena: CpuAttention(arena, model.scales))


def random_scales(layers: int, heads: int) -> KvScales:
    """A different scale for each layer, head, and keys or values; none a power of two."""
    draw = np.random.default_rng(0)
    keys, values = draw.uniform(0.05, 0.3, (2, layers, heads)).astype(np.float32)
    return KvScales(keys, values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_pass(family: str, dtype: str, tmp_path: Path) -> None:
    """Every family passes over an e4m3 pool, with scales and without, at the tolerance of its own dtype."""
    path = family_model(tmp_path, family)
    on_cpu(*loaded(path, dtype))
    layout = layout_of(path, E4M3, 16)
    random_scales(layout.num_layers, layout.num_kv_heads).write(path)
    on_cpu(*loaded(path, dtype))


@pytest.mark.parametrize("broken", ["write", "read"])
def test_a_forgotten_scale_is_refused(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that divides by the scales and does not multiply, or the other way round, never serves."""
    path = make_model(tmp_path)
    random_scales(2, 2).write(path)
    right = getattr(Slots, broken)

    def wrong(self: Slots, *given: object) -> object:
        kept, self._scales = self._scales, torch.ones_like(self._scales)  # type: ignore[arg-type]
        try:
            return right(self, *given)
        finally:
            self._scales = kept

    monkeypatch.setattr(Slots, broken, wrong)
    what = "are stored with an error of" if broken == "write" else r"layer 0 \(LlamaAttention\) over what is stored"
    with pytest.raises(ModelRefused, match=what):
        on_cpu(*loaded(path))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scales_that_do_not_fit_are_refused(scale: float, tmp_path: Path) -> None:
    """Values beyond the largest e4m3 number, or below the smallest ones, are named with layer, head, and a way out."""
    path = make_model(tmp_path)
    scales = KvScales.ones(2, 2)
    scales.values[1, 1] = scale
    scales.write(path)
    with pytest.raises(ModelRefused, match=r"values of layer 1, KV head 1, are stored with an error.*quire calibrate"):
        on_cpu(*loaded(path))


def test_scales_are_part_of_the_layout(tmp_path: Path) -> None:
    """Other scales are another layout for e4m3 alone; scales of 1 are as good as no file."""
    path = make_model(tmp_path)
    plain = {dtype: layout_of(path, dtype, 16) for dtype in ("float32", E4M3)}
    KvScales.ones(2, 2).write(path)
    assert layout_of(path, E4M3, 16) == plain[E4M3]

    random_scales(2, 2).write(path)

    assert layout_of(path, E4M3, 16).differences(plain[E4M3]) == ["scales"]
    assert layout_of(path, "float32", 16) == plain["float32"]
    assert plain[E4M3].block_bytes * 4 == plain["float32"].block_bytes


def test_scales_changed_while_loading_are_refused(tmp_path: Path) -> None:
    """The layout of one file and the model of another never meet a pool."""
    path = make_model(tmp_path)
    layout = layout_of(path, E4M3, 16)
    random_scales(2, 2).write(path)
    with pytest.raises(ModelRefused, match="was changed while"):
        on_cpu(load_model(path), layout)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected the fields"),
        (json.dumps({"keys": [[1, 1]] * 2}), "expected the fields"),
        (json.dumps({"keys": [[1, 1]] * 2, "values": [[1, 1]]}), "'values' must be 2 rows"),
        (json.dumps({"keys": [[1, 0], [1, 1]], "values": [[1, 1]] * 2}), "'keys' must be"),
        (json.dumps({"keys": [[1, 1]] * 2, "values": [["a", 1], [1, 1]]}), "'values' must be"),
        ('{"keys": [[NaN, 1], [1, 1]], "values": [[1, 1], [1, 1]]}', "'keys' must be"),
    ],
)
def test_a_bad_file_of_scales_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    """What is wrong with the file is said in a sentence."""
    path = make_model(tmp_path)
    (path / FILE).write_text(content)
    with pytest.raises(ModelRefused, match=reason):
        layout_of(path, E4M3, 16)


def test_an_older_gpu_is_refused_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below compute capability 8.9 the complaint names the setting; other dtypes and the CPU are welcome."""
    path = make_model(tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 6))
    gpu = BackendChoice(TRITON, torch.device("cuda", 0))
    with pytest.raises(BackendRefused, match=r"this GPU has 8\.6: set kvstore\.kv_cache_dtype = auto"):
        gpu.admit(layout_of(path, E4M3, 16))
    gpu.admit(layout_of(path, "bfloat16", 16))
    BackendChoice("cpu", torch.device("cpu")).admit(layout_of(path, E4M3, 16))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    gpu.admit(layout_of(path, E4M3, 16))
