"""A model: transformers' own modelling code over our paged attention.

Owns loading and the forward pass of one packed step. No model's code is copied and no model is known by name: any
decoder that takes its attention from transformers' AttentionInterface runs, and ``selftest.self_test`` proves or
refuses it.

Invariants: the batch is [1, T], all sequences of the step one after another, with explicit position ids and no
cache of transformers' own; keys and values live in the arena only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.attention.hook import Step, running
from quire_engine.attention.plan import AttentionPlan
from quire_engine.checkpoint.architecture import ModelRefused, kv_shape, read_config, text_config
from quire_engine.checkpoint.demands.positions import max_positions
from quire_engine.checkpoint.kv_scales import KvScales
from quire_engine.checkpoint.shared.entry import Entry
from quire_engine.model.fused.experts import fuse_experts
from quire_engine.model.fused.layers import fuse_layers
from quire_engine.model.fused.linear import fuse_linear
from quire_engine.model.fused.rotary import fuse_rotary
from quire_engine.transfer import to_device

from .quantised import settle_quantisation
from .shared_gpu.hold import WeightsHold
from .weights import load_module

__all__ = ["Model", "ModelRefused", "load_model"]

log = structlog.get_logger()
COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Model:
    """A loaded decoder.

    Attributes:
        module: transformers' model.
        config: the configuration of its text layers.
        backend: attention over the arena in use; set it with :meth:`use` before the first forward pass.
        max_model_len: tokens of the longest sequence: what the model is made for, or less if less is served.
        heads: query heads.
        scales: of keys and values, where they are stored as e4m3.
        weight_bytes: of all parameters as they were loaded.
        quantised: what became of quantised weights, in words; "" if they were not.
        weights_entry: the host's one copy of the weights, where they are a mapping of that.
        weights_hold: the same of a GPU.
        weights_private: why they are neither, in words.
        vocab_size: number of logits.
        eos_ids: tokens that end an answer.
        attention_modules: by layer, the module that asked for attention in the latest forward pass.
    """

    def __init__(self, module: Any, scales: KvScales | None = None, weight_bytes: int = 0, quantised: str = "") -> None:
        self.module = module
        self.config = text_config(module.config)
        self.backend: AttentionBackend | None = None
        self.max_model_len = max_positions(self.config)
        self.heads = int(self.config.num_attention_heads)
        self.scales = scales
        self.weight_bytes = weight_bytes
        self.quantised = quantised
        self.weights_entry: Entry | None = None
        self.weights_hold: WeightsHold | None = None
        self.weights_private = ""
        self.vocab_size = int(self.config.vocab_size)
        self.eos_ids = _eos_ids(module)
        self.attention_modules: dict[int, torch.nn.Module] = {}

    def use(self, backend: AttentionBackend) -> None:
        """Read and write keys and values through ``backend`` from now on."""
        self.backend = backend

    def let_go(self) -> None:
        """Forget the backend and with it the arena; ``use`` gives another."""
        self.backend = None

    @property
    def weights_shared(self) -> bool:
        """Whether other engines compute with the same copy of them."""
        return self.weights_entry is not None or self.weights_hold is not None

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.module.device
        return device

    def forward(self, token_ids: torch.Tensor, plan: AttentionPlan, logit_rows: torch.Tensor) -> torch.Tensor:
        """Run one step: write its K and V to the arena and compute the logits of some rows.

        Args:
            token_ids: [T] query tokens of all sequences, packed in the plan's order, int64.
            plan: the step's geometry.
            logit_rows: [R] rows of the batch whose logits are wanted, int64; may be empty.

        Returns:
            [R, vocab] float32.

        Raises:
            ModelRefused: the model asks for something our attention does not know.
        """
        positions = to_device(torch.from_numpy(plan.positions), self.device)
        return self.compute(to_device(token_ids, self.device), positions, plan, to_device(logit_rows, self.device))

    @torch.inference_mode()
    def compute(
        self, token_ids: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan, logit_rows: torch.Tensor
    ) -> torch.Tensor:
        """:meth:`forward` with everything on the model's device already: nothing is copied, so it can be captured."""
        assert self.backend is not None, "no backend: call use() first"
        assert len(token_ids) == len(plan.positions), "one token for each row of the plan"
        with running(Step(self.config, self.backend, plan)) as step:
            output = self.module(
                input_ids=token_ids.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=logit_rows,
            )
        self.attention_modules = step.layers
        missing = set(range(self.backend.arena.shape[0])) - set(step.layers)
        if missing:
            raise ModelRefused(f"layer {min(missing)} does not take its attention from AttentionInterface")
        logits: torch.Tensor = output.logits[0]
        if logits.shape[0] != len(logit_rows):
            raise ModelRefused("the model ignores logits_to_keep")
        return logits.float()


def load_model(directory: Path | str, dtype: str = "float32", device: torch.device | str = "cpu") -> Model:
    """Load the safetensors model in ``directory``; nothing is fetched and no code of the directory is run.

    Raises ModelRefused for a model that cannot be served, OSError for files that cannot be read.
    """
    if dtype not in COMPUTE_DTYPES:
        raise ModelRefused(f"dtype {dtype!r} is none of {', '.join(COMPUTE_DTYPES)}")
    directory = Path(directory)
    config = read_config(directory)
    scales = read_scales(directory, config)
    quantised = settle_quantisation(config, device)
    module = load_module(directory, config, COMPUTE_DTYPES[dtype], device)
    weight_bytes = sum(weight.nbytes for weight in module.parameters())  # one that is shared counts once
    fuse_linear(module)
    fuse_layers(module)
    fuse_experts(module)
    return fused_for_device(module, scales, weight_bytes, quantised)


def read_scales(directory: Path, config: Any) -> KvScales:
    """The scales of a model's keys and values. Raises ModelRefused, OSError."""
    layers, kv_heads, _ = kv_shape(text_config(config))
    return KvScales.read(directory, layers, kv_heads)


def fused_for_device(module: Any, scales: KvScales | None, weight_bytes: int, quantised: str) -> Model:
    """A model over ``module``, fused where that keeps the module's own weights: what lies where it lies stays there."""
    fuse_rotary(module)
    if module.device.type == "cuda":
        from quire_engine.model.fused_gpu import fuse_gpu_layers, fuse_gpu_rotary  # Triton itself is an extra

        log.info("layers_fused", layers=fuse_gpu_layers(module), rotary=fuse_gpu_rotary(module))
    return Model(module, scales, weight_bytes, quantised)


def _eos_ids(module: Any) -> frozenset[int]:
    """End tokens of the generation configuration and of the model's: each may name some that the other lacks."""
    found: set[int] = set()
    for source in (module.generation_config, module.config, module.config.get_text_config()):
        named = getattr(source, "eos_token_id", None)
        found.update(named if isinstance(named, list) else [] if named is None else [named])
    return frozenset(found)
