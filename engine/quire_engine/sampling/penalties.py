"""Penalties: logits of tokens that were seen before, made smaller (or larger).

    repetition   of the tokens in prompt and answer: a positive logit is divided by it, another one multiplied
    frequency    of the tokens in the answer: taken off once for each time
    presence     of the tokens in the answer: taken off once

in this order, as vLLM does it. A row comes with the tokens of its answer; the newest one is taken from the device,
where it is before the host knows it. Nothing is kept between steps, so what forks, comes back after a preemption or
goes on in another engine is penalized as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy.typing as npt
import torch

from quire_engine.sequences.sample_row import SampleRow
from quire_engine.transfer import to_device

from .places import places


def penalize(logits: torch.Tensor, rows: Sequence[SampleRow], newest: torch.Tensor) -> None:
    """Change ``logits`` [rows, vocabulary] in place; ``newest``: [rows] the last token of each row, on the device."""
    repeated, counted = _Pairs(), _Pairs()
    for line, row in enumerate(rows):
        wanted = row.adjustments
        if wanted is None:
            continue
        output: npt.ArrayLike = () if row.output is None else row.output
        if wanted.repetition != 1:
            repeated.add(line, wanted.seen, output, (wanted.repetition,))
        if wanted.frequency or wanted.presence:
            counted.add(line, (), output, (wanted.frequency, wanted.presence, float(row.output is not None)))
    if repeated.lines:
        at, (repetition,) = repeated.on_device(logits, newest)
        value = logits.view(-1).gather(0, at)
        logits.view(-1).scatter_(0, at, torch.where(value > 0, value / repetition, value * repetition))
    if counted.lines:
        at, (frequency, presence, answered) = counted.on_device(logits, newest)
        value = logits.view(-1).gather(0, at)
        # How often each was generated is counted in its place: other memory of this size would cost more than the rest.
        times = logits.view(-1).scatter_(0, at, 0.0).scatter_add_(0, at, answered).gather(0, at)
        logits.view(-1).scatter_(0, at, value - frequency * times - presence * (times > 0))


@dataclass(slots=True)
class _Pairs:
    """Tokens of some rows, and what goes for all of a row's.

    A token is in as often as it was seen. What is written is made of what was there before, so it is the same wherever
    the place is the same.
    """

    lines: list[int] = field(default_factory=list)
    seen: list[npt.ArrayLike] = field(default_factory=list)
    output: list[npt.ArrayLike] = field(default_factory=list)
    settings: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, line: int, seen: npt.ArrayLike, output: npt.ArrayLike, settings: tuple[float, ...]) -> None:
        """The row's tokens, in two parts, and its newest one."""
        self.lines.append(line)
        self.seen.append(seen)
        self.output.append(output)
        self.settings.append(settings)

    def on_device(self, logits: torch.Tensor, newest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The places of all, and the settings of each: [settings, places]."""
        tokens = [*self.seen, *self.output]
        lines = to_device(torch.tensor(self.lines), logits.device)
        at = torch.cat([places(self.lines * 2, tokens, logits), lines * logits.shape[1] + newest[lines]])
        lengths = [len(ids) for ids in tokens] + [1] * len(self.lines)  # type: ignore[arg-type]
        settings = to_device(torch.tensor(self.settings * 3).T.contiguous(), logits.device)
        return at, settings.repeat_interleave(to_device(torch.tensor(lengths), logits.device), 1, output_size=len(at))
