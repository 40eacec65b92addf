"""Calibration: scales that make any model fit, found from its own keys and values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.models.tiny import make_model
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.checkpoint.kv_scales import FILE, LARGEST, KvScales
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.calibrate import HEADROOM, calibrate
from quire_engine.model.model import ModelRefused, load_model
from quire_engine.model.selftest.selftest import self_test
from quire_proto.wire.layout import E4M3
from quire_services import cli


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A model whose values are far too small for e4m3 in one layer and far too large in the other."""
    path = make_model(tmp_path / "odd", vocab=64, hidden=32, heads=2, kv_heads=2)
    weights = load_file(path / "model.safetensors")
    for layer, factor in ((0, 1e-5), (1, 1e5)):
        weights[f"model.layers.{layer}.self_attn.v_proj.weight"] *= factor
        weights[f"model.layers.{layer}.self_attn.o_proj.weight"] /= factor
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return path


def test_the_command_makes_a_refused_model_fit(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused at scale 1; after `quire calibrate`, with a text of its own or without, it passes the self-test."""

    def check() -> None:
        model = load_model(odd)
        self_test(model, layout_of(odd, E4M3, 16), lambda arena: CpuAttention(arena, model.scales))

    with pytest.raises(ModelRefused, match="quire calibrate"):
        check()
    text = tmp_path / "text"
    text.write_text(" ".join(f"w{i % 50}" for i in range(90)))
    for extra in ([], ["--text", str(text)]):
        (odd / FILE).unlink(missing_ok=True)
        assert cli.main(["calibrate", "--model", str(odd), *extra]) == 0
        assert f"{odd / FILE}: scales of keys from" in capsys.readouterr().out
        check()


def test_scales_are_powers_of_two_with_headroom(odd: Path) -> None:
    """The largest value of a head lands between 1/16 and 1/8 of the largest e4m3 number."""
    model = load_model(odd)
    tokens = list(range(40))
    scales = calibrate(model, [tokens])
    seen: dict[int, torch.Tensor] = {}
    for layer in range(2):
        module = model.module.model.layers[layer].self_attn.v_proj
        module.register_forward_hook(lambda _m, _i, out, at=layer: seen.__setitem__(at, out[0]))
    calibrate(model, [tokens])

    assert (np.frexp(scales.keys)[0] == 0.5).all()
    assert (np.frexp(scales.values)[0] == 0.5).all()
    for layer, value in seen.items():
        top = value.view(40, 2, -1).abs().amax((0, 2)).numpy() / scales.values[layer] * HEADROOM / LARGEST
        assert ((top > 0.5) & (top <= 1)).all()


def test_what_cannot_be_calibrated_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing, empty or binary text is one line and changes nothing."""
    path = make_model(tmp_path / "model", vocab=64, hidden=32, heads=2, kv_heads=2)

    for name, content, words in (("gone", None, "No such file"), ("e", b"", "no text"), ("b", b"\xff", "utf-8")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert cli.main(["calibrate", "--model", str(path), "--text", str(tmp_path / name)]) == 1
        assert words in capsys.readouterr().err
    assert KvScales.read(path, 2, 2).identity() == ""
