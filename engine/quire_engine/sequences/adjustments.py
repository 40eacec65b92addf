"""Adjustments: what one request wants done to its logits before a token is chosen from them.

Made once for a request, as arrays, so that a step puts those of its rows together and looks at no token by itself. What
depends on the tokens generated so far is not kept here, or anywhere: a row brings them (``SampleRow.output``), so there
is nothing to copy at a fork, to rebuild after a preemption, or to undo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import unpack_u32

from .bad_words import BadWords, Ids


@dataclass(frozen=True, slots=True, eq=False)
class Adjustments:
    """The penalties, bias and masks of one request.

    Attributes:
        repetition: divides the positive logits, and multiplies the others, of all tokens seen; 1 is off.
        frequency: taken off a logit for each time its token was generated. presence: once. 0 is off.
        bias_ids, bias: added to these tokens' logits.
        allowed: the only tokens that may be chosen; empty for all.
        bad_words: sequences of tokens that may not be completed.
        seen: the tokens of the prompt, each once; empty where they count for nothing.
    """

    repetition: float
    frequency: float
    presence: float
    bias_ids: Ids
    bias: npt.NDArray[np.float32]
    allowed: Ids
    bad_words: BadWords
    seen: Ids

    @classmethod
    def of(cls, how: Sampling, prompt: bytes) -> Adjustments | None:
        """Those of a request; None if it has none. Raises ValueError for a bias without its token."""
        bias_ids, bias = _ids(how.bias_token_ids), np.array(how.bias, np.float32)
        if len(bias_ids) != len(bias):
            raise ValueError(f"{len(bias)} values of bias for {len(bias_ids)} tokens")
        out = cls(
            how.repetition_penalty,
            how.frequency_penalty,
            how.presence_penalty,
            bias_ids,
            bias,
            np.unique(_ids(how.allowed_token_ids)),
            BadWords([unpack_u32(word).tolist() for word in how.bad_words]),
            np.unique(_ids(prompt)) if how.repetition_penalty != 1 else _ids(b""),
        )
        return out if out.penalizes or len(bias) or len(out.allowed) or out.bad_words else None

    @property
    def penalizes(self) -> bool:
        """Whether the tokens seen so far matter."""
        return self.repetition != 1 or self.frequency != 0 or self.presence != 0

    @property
    def reach(self) -> int | None:
        """How many of the last generated tokens, but for the very last one, are looked at; None for all."""
        return None if self.penalizes else self.bad_words.reach

    @property
    def largest(self) -> int:
        """The largest token that they name, -1 if none."""
        return max([int(ids.max(initial=-1)) for ids in (self.bias_ids, self.allowed, self.bad_words.ids)])


def _ids(packed: bytes) -> Ids:
    return np.frombuffer(packed, "<u4").astype(np.int64)
