"""The element type that ``auto`` means: the checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.weights.dtype import compute_dtype
from quire_engine.checkpoint.weights.float16 import has_float16


def checkpoint(directory: Path, fields: dict[str, object], **weights: torch.dtype) -> Path:
    """A directory with this config.json and weights of these types, the first with 8 elements, the others with 4."""
    (directory / "config.json").write_text(json.dumps(fields))
    tensors = {name: torch.zeros(4, dtype=dtype) for name, dtype in weights.items()}
    if tensors:
        first = next(iter(tensors))
        save_file(tensors | {first: tensors[first].repeat(2)}, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize(
    ("fields", "weights", "expected"),
    [
        ({"dtype": "bfloat16"}, {}, "bfloat16"),
        ({"torch_dtype": "torch.float16"}, {}, "float16"),
        ({"dtype": "float32", "text_config": {"dtype": "bfloat16"}}, {}, "bfloat16"),
        ({}, {"a": torch.bfloat16, "norm": torch.float32}, "bfloat16"),
        ({"dtype": "float64"}, {"a": torch.float16, "norm": torch.bfloat16}, "float16"),
        ({"dtype": 7}, {"a": torch.float64}, "float32"),
    ],
)
def test_auto_is_the_checkpoints_own(tmp_path, fields, weights, expected):
    """What config.json says of the text, or what most weights are in; what nothing computes in becomes float32."""
    assert compute_dtype(checkpoint(tmp_path, fields, **weights), "auto") == expected


def test_what_is_asked_for_is_taken(tmp_path):
    """A name of a type is that type whatever the checkpoint is in, and a name of none is refused."""
    directory = checkpoint(tmp_path, {"dtype": "bfloat16"})
    assert compute_dtype(directory, "float32") == "float32"
    with pytest.raises(ModelRefused, match="'int8' is none of auto, float32"):
        compute_dtype(directory, "int8")


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_fp16 amx_tile\nbugs\t: none\nflags\t\t: fpu avx512_fp16\n", True),
        ("flags\t\t: fpu avx512_fp16\nflags\t\t: fpu avx512f\n", False),
        ("flags\t\t: fpu avx2 f16c\n", False),
        ("Features\t: fp asimd fphp asimdhp\n", True),
        ("", False),
    ],
)
def test_every_processor_must_have_float16(tmp_path, told, has):
    """As the system tells it, of x86 or of ARM; none where it does not tell."""
    (tmp_path / "cpuinfo").write_text(told)
    assert has_float16(tmp_path / "cpuinfo") is has
    assert not has_float16(tmp_path / "missing")
