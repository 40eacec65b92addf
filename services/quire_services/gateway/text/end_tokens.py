"""End tokens: which tokens end an answer besides those that the engine knows, and what those that have no text spell.

A model's files name its end tokens in three places and seldom agree; the engine knows those of the model's two
configurations, the tokenizer's is added here. A stop string that is the spelling of a special token ends the answer
at that token: its text is left out of answers, so that nothing else would find it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import pack_u32, unpack_u32


class EndTokens:
    """End tokens under one tokenizer.

    Args:
        backend: a ``tokenizers.Tokenizer``.
        end_ids: tokens that end an answer, as the tokenizer has it.
    """

    def __init__(self, backend: Any, end_ids: Collection[int]) -> None:
        self._end_ids = frozenset(end_ids)
        self._special = {str(t.content): i for i, t in backend.get_added_tokens_decoder().items() if t.special}
        # There may be thousands of them, and few stop strings hold a letter with which one begins.
        self._letters = {spelling[:1] for spelling in self._special}

    def added(self, how: Sampling, stops: Sequence[str], vocab_size: int) -> Sampling:
        """``how``, with the tokenizer's end tokens (unless they are to be ignored) and those that ``stops`` spell."""
        given = list(unpack_u32(how.stop_token_ids))
        found = [self._special[stop] for stop in stops if stop in self._special]
        found += () if how.ignore_eos else sorted(self._end_ids)
        more = [token for token in dict.fromkeys(found) if token < vocab_size and token not in given]
        return replace(how, stop_token_ids=pack_u32([*given, *more])) if more else how

    def spelled(self, stops: Sequence[str]) -> Mapping[int, str]:
        """The special tokens that stop strings spell, alone or among other text."""
        stops = [stop for stop in stops if not self._letters.isdisjoint(stop)]
        if not stops:
            return {}
        return {token: spelling for spelling, token in self._special.items() if any(spelling in s for s in stops)}
