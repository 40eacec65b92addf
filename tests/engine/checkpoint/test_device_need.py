"""What an engine will need of a GPU, reckoned from a model's files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.models.tiny import make_model
from quire_engine.checkpoint.device_need import DRAWING, PROCESS, SCORED, DeviceNeed, device_need
from quire_services.config.settings import Config, EngineSettings, KvstoreSettings, ServeSettings
from quire_services.daemons.kvstored import _engines_need
from quire_services.stack.processes import Stack


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_are_counted_to_the_byte(dtype: str, size: int, shards: int, tmp_path: Path) -> None:
    """In the type that is computed in, whatever the files hold, and over all files."""
    directory = make_model(tmp_path / "model", hidden=32, heads=2, kv_heads=1, vocab=64)
    module = AutoModelForCausalLM.from_pretrained(directory)
    if shards > 1:
        (directory / "model.safetensors").unlink()
        module.save_pretrained(directory, max_shard_size="20KB")
        assert len(list(directory.glob("*.safetensors"))) >= shards
    expected = sum(weight.numel() for weight in module.parameters())
    rest = PROCESS + SCORED * 64 * DRAWING
    need = device_need(directory, dtype)
    assert (need.fixed, need.weights) == (expected * size + rest, expected * size)


def test_a_step_needs_no_more_than_is_reckoned(tmp_path: Path) -> None:
    """Tensors between the layers of a whole step of transformers' own modelling code, all of one layer's at once."""
    directory = make_model(tmp_path / "model", hidden=64, heads=4, kv_heads=2, vocab=512)
    module = AutoModelForCausalLM.from_pretrained(directory)
    made: list[int] = []

    def note(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        made.extend(part.numel() * part.element_size() for part in outputs if isinstance(part, torch.Tensor))

    for part in module.model.layers[0].modules():
        part.register_forward_hook(note)
    tokens = 50
    module(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=False)
    assert 0 < sum(made) <= tokens * device_need(directory, "float32").token


def test_a_sequence_needs_what_its_row_of_logits_does(tmp_path: Path) -> None:
    """Drawn, and as a row of the largest graph."""
    directory = make_model(tmp_path / "model", hidden=32, heads=2, kv_heads=1, vocab=64)
    need = device_need(directory, "bfloat16")
    assert need.sequence == 64 * DRAWING * 5 // 4 + need.token
    assert (need.tokens, need.sequences) == (8192, 256)


@pytest.mark.parametrize(("shared", "copies"), [(True, 1), (False, 3)])
def test_weights_that_are_shared_are_counted_once(shared: bool, copies: int) -> None:
    """However many engines there are; where each has its own, once for each."""
    need = asdict(DeviceNeed(1000, 0, 0, weights=700))
    config = Config(serve=ServeSettings(engines=3), kvstore=KvstoreSettings(share_weights=shared))
    assert _engines_need(need, config) == 3 * 300 + copies * 700


def test_a_kvstore_leaves_room_for_all_engines(tmp_path: Path) -> None:
    """As many as the stack has, with the steps that they will have; and another engine does not change its settings."""
    need, settings = asdict(DeviceNeed(1000, 10, 100)), EngineSettings(max_sequences=8)
    config = Config(serve=ServeSettings(engines=3), engine=settings)
    assert _engines_need(need, config) == 3 * (1000 + 8192 * 10 + 8 * 100)
    assert _engines_need({}, config) == 0
    one, three = (
        Stack(Config(serve=ServeSettings(model=str(tmp_path), engines=n), engine=settings), tmp_path) for n in (1, 3)
    )
    assert one.kvstore.argv == three.kvstore.argv
    assert three.kvstore.defaults["QUIRE_SERVE_ENGINES"] == "3"
    assert three.kvstore.defaults["QUIRE_ENGINE_MAX_SEQUENCES"] == "8"
