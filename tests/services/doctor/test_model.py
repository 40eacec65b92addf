"""`quire doctor` on model directories that are damaged in every way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quire_services.doctor.checks.model import check_model
from tests.support.doctor import found, ids, only, write_model, write_weights
from tests.support.quire_command import prepared


def cut(directory: Path) -> None:
    """As a download that was broken off."""
    os.truncate(directory / "model.safetensors", 100)


def quantised(directory: Path) -> None:
    """Weights that nothing here can read."""
    (directory / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')


def too_large(directory: Path) -> None:
    """More than any machine of this decade has."""
    write_weights(directory / "model.safetensors", [1 << 20, 1 << 20])


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "cut off": ("weights-unusable", cut),
    "no weights": ("weights-unusable", lambda d: (d / "model.safetensors").unlink()),
    "a pointer": ("weights-unusable", lambda d: (d / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")),
    "no configuration": ("model-unusable", lambda d: (d / "config.json").unlink()),
    "quantised": ("model-unusable", quantised),
    "no tokenizer": ("tokenizer-missing", lambda d: (d / "tokenizer.json").unlink()),
    "too large": ("weights-exceed-memory", too_large),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_model_is_found(tmp_path: Path, run_dir: Path, fault: str) -> None:
    """It alone; before it was made nothing is found."""
    model = write_model(tmp_path / "model")
    assert ids(found(check_model, model=model, run_dir=run_dir)) == []
    name, make = FAULTS[fault]
    make(model)
    findings = found(check_model, model=model, run_dir=run_dir)
    assert ids(findings) == [name]
    assert str(model) in only(findings, name).where


def test_no_model(tmp_path: Path, run_dir: Path) -> None:
    """One that is not named is an info, one that is not there an error."""
    assert ids(found(check_model, run_dir=run_dir)) == ["model-not-named"]
    assert ids(found(check_model, model=tmp_path / "none", run_dir=run_dir)) == ["model-not-found"]


def test_a_model_of_another_shape_than_the_pool(tmp_path: Path, run_dir: Path) -> None:
    """What the prepared file says and the model's configuration are compared."""
    prepared(run_dir)  # of one layer
    model = write_model(tmp_path / "model", layers=1)
    assert ids(found(check_model, model=model, run_dir=run_dir)) == []
    write_model(model, layers=2)
    assert "num_layers 1 and 2" in only(found(check_model, model=model, run_dir=run_dir), "layout-mismatch").seen
