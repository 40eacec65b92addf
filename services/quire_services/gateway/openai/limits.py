"""Limits: what the connected engines can take, as far as a request is checked against it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What every usable engine can take.

    Attributes:
        max_model_len: tokens of a sequence, prompt and answer, that any request may have.
        vocab_size: of the model.
        widest: tokens of the request whose published prompt leaves it most, since the blocks that a published prompt
            pins are there for the requests that begin with it.
    """

    max_model_len: int
    vocab_size: int
    widest: int
