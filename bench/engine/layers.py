"""``quire bench layers``: a step of a model on this CPU with transformers' own layers, and with ours in their place.

Attention is the same on all sides but the last, and the others differ in nothing but the layers:

    own         transformers' linear layers, norms, gates and experts
    packed      linear layers of ours (``fused.linear``)
    together    queries, keys and values in one call
    fused       norms, gated layers and experts of ours, as an engine loads the model
    generate    transformers' model with its own cache and attention, for the decode only

``--model moe`` is a mixture of 32 experts of which each token takes 4. Sides take turns; a ratio is taken within each
turn, and medians are reported. In float32 the sides' likeliest tokens are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from bench.models.sizes import MODELS, SIZES, model_directory
from bench.report.figures import Report, median, say, table
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from quire_engine.checkpoint.architecture import read_config
from quire_engine.checkpoint.layout import layout_of
from quire_engine.kv.attach import ARENA_DTYPES
from quire_engine.model.fused.linear import PackedLinear, fuse_linear
from quire_engine.model.model import COMPUTE_DTYPES, Model, load_model
from quire_engine.model.weights import load_module

BLOCK = 16
MIXTURE = "moe"
EXPERTS: dict[str, Any] = {
    "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
    "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 1024, "vocab_size": 8000,
    "intermediate_size": 1024, "max_position_embeddings": 8192, "pad_token_id": None, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--model", choices=(*SIZES, "smollm2", MIXTURE), default="27m", help="which model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, default=16, help="sequences of a decode step")
    parser.add_argument("--keys", type=int, default=512, help="tokens behind each, and of the prompt that is prefilled")
    parser.add_argument("--turns", type=int, default=15, help="turns of all sides")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of the kernels")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    torch.set_num_threads(arguments.threads)
    names = ("model", "dtype", "rows", "keys", "turns", "threads")
    report = Report("layers", {name: getattr(arguments, name) for name in names})
    directory = _mixture() if arguments.model == MIXTURE else model_directory(arguments.model)
    for dtype in arguments.dtype:
        say(f"{dtype} ...")
        sides = {name: _Paged(model, directory, dtype, arguments) for name, model in _models(directory, dtype).items()}
        calls: dict[str, dict[str, Callable[[], torch.Tensor]]] = {
            "decode": {name: side.decode for name, side in sides.items()},
            "prefill": {name: side.prefill for name, side in sides.items()},
        }
        calls["decode"]["generate"] = _Generating(directory, dtype, sides["fused"].tokens).decode
        for kind, each in calls.items():
            taken, tokens = _in_turns(each, arguments.turns)
            equal = len({tuple(one.tolist()) for one in tokens.values()}) == 1
            report.figures[f"{dtype} {kind}"] = {"ms": taken, "same_tokens": equal}
            fused = taken["fused"]
            rows = [
                [name, median(ms), median(a / b for a, b in zip(ms, fused, strict=True))] for name, ms in taken.items()
            ]
            title = f"{dtype}, {kind}; likeliest tokens {'the same' if equal else 'differ'}"
            report.tables.append((title, table(rows, ["layers", "ms a step", "times as long as fused"])))
    report.notes.append("Medians of turns; ratios within turns. A step of the model, from tokens to logits.")
    return report


def _models(directory: Path, dtype: str) -> dict[str, Model]:
    """The model with each kind of layers. The rotation is a file's, not a model's: it is ours on all sides."""
    config = read_config(directory)
    modules = [load_module(directory, config, COMPUTE_DTYPES[dtype], "cpu") for _ in range(3)]
    for module in modules[1:]:
        fuse_linear(module)
    for layer in modules[1].modules():
        if isinstance(layer, PackedLinear):
            layer.mates = None
    models = {name: Model(module) for name, module in zip(("own", "packed", "together"), modules, strict=True)}
    return models | {"fused": load_model(directory, dtype)}


class _Paged:
    """Steps of one model over an arena of its own."""

    def __init__(self, model: Model, directory: Path, dtype: str, arguments: argparse.Namespace) -> None:
        rows, keys = arguments.rows, arguments.keys
        each = keys // BLOCK + 1
        draw = np.random.default_rng(0)
        layout = layout_of(directory, dtype, BLOCK)
        arena = torch.zeros(layout.shape((rows + 1) * each), dtype=ARENA_DTYPES[layout.dtype])
        self.tokens = torch.from_numpy(draw.integers(3, model.vocab_size, (rows, keys + 1)))
        self._tables = np.split(draw.permutation((rows + 1) * each).astype(np.int32), rows + 1)
        self._model, self._rows, self._keys = model, rows, keys
        model.use(CpuAttention(arena))
        for row in range(rows):
            self._step([self._tables[row]], [0], [keys], self.tokens[row, :-1])

    def decode(self) -> torch.Tensor:
        """The likeliest tokens after one more of each sequence."""
        return self._step(self._tables[:-1], [self._keys] * self._rows, [1] * self._rows, self.tokens[:, -1])

    def prefill(self) -> torch.Tensor:
        """The likeliest token after a prompt."""
        return self._step(self._tables[-1:], [0], [self._keys], self.tokens[0, :-1])

    def _step(
        self, tables: list[np.ndarray], starts: list[int], counts: list[int], tokens: torch.Tensor
    ) -> torch.Tensor:
        plan = build_plan(tables, starts, counts, BLOCK)
        return self._model.forward(tokens, plan, torch.tensor(counts).cumsum(0) - 1).argmax(1)


class _Generating:
    """Decode steps of transformers' own model, as its ``generate`` makes them: one batch, its own cache."""

    def __init__(self, directory: Path, dtype: str, tokens: torch.Tensor) -> None:
        self._module: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=COMPUTE_DTYPES[dtype]).eval()
        self._cache, self._tokens = DynamicCache(), tokens
        self._call(tokens[:, :-1])

    def decode(self) -> torch.Tensor:
        """The likeliest tokens after one more of each sequence."""
        found = self._call(self._tokens[:, -1:])
        self._cache.crop(-1)  # that token
        return found

    @torch.inference_mode()
    def _call(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self._module(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
        found: torch.Tensor = logits[:, -1].argmax(1)
        return found


def _in_turns(
    sides: dict[str, Callable[[], torch.Tensor]], turns: int
) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Milliseconds of each side in each turn, after one that does not count, and what each gave."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    given = {name: call() for name, call in sides.items()}
    for _ in range(turns):
        for name, call in sides.items():
            began = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - began))
    return taken, given


def _mixture() -> Path:
    """The directory of the mixture, made if it is not there."""
    directory = MODELS / "qwen3-moe"
    if not (directory / "done").exists():
        torch.manual_seed(0)
        config = AutoConfig.for_model("qwen3_moe", **EXPERTS)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(0.0, weight.shape[-1] ** -0.5)
        model.save_pretrained(directory)
        (directory / "done").touch()
    return directory
