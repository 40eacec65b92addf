"""What a model put together of tensors is held against what was loaded by: logits of a few tokens under the model's own
attention, equal to the bit, and the tokens that end an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from quire_engine.checkpoint.shared.directory import Unshared
from quire_engine.model.model import Model
from quire_engine.model.selftest.eager import Probe, Seeing, eager

PROBED_TOKENS = 12
_NO_TABLE = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class ModelProbe:
    """What was seen of a model, which need not be there any more."""

    logits: torch.Tensor
    eos_ids: frozenset[int]

    @classmethod
    def of(cls, model: Model) -> Self:
        """Look at a model. Raises Unshared where its own attention cannot compute."""
        return cls(_logits(model), model.eos_ids)

    def insist_same(self, again: Model) -> None:
        """Raise Unshared unless ``again``, put together from the tensors of the first, is the same model."""
        if again.eos_ids != self.eos_ids or not torch.equal(_logits(again), self.logits):
            raise Unshared("put together from its tensors, the model gives other numbers")


def _logits(model: Model) -> torch.Tensor:
    draw = np.random.default_rng(0)
    tokens = torch.from_numpy(draw.integers(0, model.vocab_size, min(PROBED_TOKENS, model.max_model_len)))
    try:
        return eager(model, {}, Probe(tokens, _NO_TABLE), Seeing(), lambda _layer, _output: None)
    except Exception as error:  # of any kind, in the model's own code; the self-test will say what it is
        raise Unshared(f"it does not compute: {type(error).__name__}: {error}") from None
