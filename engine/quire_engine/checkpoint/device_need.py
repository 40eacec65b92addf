"""What an engine needs of a GPU beside the pool, reckoned from the files of a model before anything is loaded.

A pool is made before its engines are there, and keeps its size; so what they will need has to be known. Weights are
counted to the byte. The rest is reckoned to be rather too much: tensors of the largest step, by its tokens and by the
rows that are drawn or scored, once more for its graphs, and what driver and libraries take for a process. An engine
computes its largest step when it attaches, which proves or refutes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architecture import read_config, text_config
from .weights.dtype import compute_dtype
from .weights.weight_files import weight_elements

# By kind of device, of a step: a GPU computes hundreds of tokens in the time of one, a CPU's core a few.
STEP_TOKENS = {"cpu": 512, "cuda": 8192}
STEP_SEQUENCES = {"cpu": 64, "cuda": 256}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROCESS = 3 << 29  # context, code of kernels, workspaces of libraries, partial results, what the allocator cannot join
SCORED = 256  # rows of a step that are scored beside those that draw
DRAWING = 56  # bytes for each logit of a row: as computed, float32, in order with its place, probabilities and sums


@dataclass(frozen=True, slots=True)
class DeviceNeed:
    """Bytes of an engine: ``fixed`` ones, and more for each token and each sequence of its largest step; which has so
    many ``tokens`` and ``sequences`` unless it is said. ``weights`` are a part of the fixed ones, and are there once
    for all engines that share them."""

    fixed: int
    token: int
    sequence: int
    tokens: int = STEP_TOKENS["cuda"]
    sequences: int = STEP_SEQUENCES["cuda"]
    weights: int = 0


def device_need(directory: Path, dtype: str) -> DeviceNeed:
    """The need of the model in ``directory``, computed in ``dtype``. Raises ModelRefused, OSError."""
    config, size = text_config(read_config(directory)), BYTES[compute_dtype(directory, dtype)]
    weights = weight_elements(directory) * size
    heads = config.num_attention_heads + 2 * (getattr(config, "num_key_value_heads", None) or 0)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Rows before and after a norm and a product, twice in float32; heads before and after their rotation.
    width = 8 * config.hidden_size + 3 * heads * head_dim + 4 * _intermediate(config)
    token, row = width * size, config.vocab_size * DRAWING
    # A sequence is drawn, and is a row of the largest graph, which keeps its logits.
    return DeviceNeed(weights + SCORED * row + PROCESS, token, row + token + row // 4, weights=weights)


def _intermediate(config: Any) -> int:
    """Numbers between the products of a feed-forward layer, for one token: of experts, those that it is given to."""
    dense = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    experts = int(getattr(config, "num_experts_per_tok", None) or 0)
    return max(dense, experts * (getattr(config, "moe_intermediate_size", None) or dense))
