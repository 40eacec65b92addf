"""Logits of a few tokens under a model's own attention: what a model put together of tensors is held against what was
loaded by."""

from __future__ import annotations

import numpy as np
import torch

from quire_engine.checkpoint.shared.directory import Unshared
from quire_engine.model.model import Model
from quire_engine.model.selftest.eager import Probe, Seeing, eager

PROBED_TOKENS = 12
_NO_TABLE = np.empty(0, np.int32)


def probe_logits(model: Model) -> torch.Tensor:
    """The logits. Raises Unshared where the model's own attention cannot compute them."""
    draw = np.random.default_rng(0)
    tokens = torch.from_numpy(draw.integers(0, model.vocab_size, min(PROBED_TOKENS, model.max_model_len)))
    try:
        return eager(model, {}, Probe(tokens, _NO_TABLE), Seeing(), lambda _layer, _output: None)
    except Exception as error:  # of any kind, in the model's own code; the self-test will say what it is
        raise Unshared(f"it does not compute: {type(error).__name__}: {error}") from None
