"""ServiceModel: how long an engine takes, as a line through what ``quire bench engine`` measured.

    a step = base + row * sequences that decode + tokens of a prompt's chunk / prefill rate

The line goes through the two decode steps of a result on disk (64 sequences with one shared prompt, 32 with private
ones: their contexts differ, so it is a model of an engine and not a prediction of one); the prefill rate is that of
private prompts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.processes.side import SideError
from bench.report.figures import RESULTS

MEASURED = "engine-125m"
CHUNK_TOKENS = 512  # an engine's default on a CPU (`max_batch_tokens`)


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """Seconds of an engine's step.

    Attributes:
        prefill_tokens_s: tokens of prompts computed a second.
        base_s: of a step that decodes anything.
        row_s: of each sequence in it.
        chunk_tokens: of a prompt, at most, in a step.
        rows: sequences at once.
    """

    prefill_tokens_s: float
    base_s: float
    row_s: float
    chunk_tokens: int = CHUNK_TOKENS
    rows: int = 64

    def step_s(self, decoding: int, prefilling: bool) -> float:
        """One step with so many sequences that decode, and a chunk of a prompt or none."""
        chunk = self.chunk_tokens / self.prefill_tokens_s if prefilling else 0.0
        return chunk + (self.base_s + self.row_s * decoding if decoding else 0.0)

    def as_json(self) -> dict[str, Any]:
        """The parameters, rounded to what a reader needs."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


def measured_model(name: str = MEASURED, **changes: Any) -> ServiceModel:
    """The model of a result of ``quire bench engine`` on disk, with some parameters given. Raises SideError."""
    file = RESULTS / f"{name}.json"
    try:
        figures = json.loads(file.read_text())["figures"]
        shared, private = figures["shared-prompt"]["decode"], figures["private"]["decode"]
        prefill = figures["private"]["prefill"]
        row_ms = (shared["step"] - private["step"]) / (shared["rows"] - private["rows"])
        base_ms = private["step"] - row_ms * private["rows"]
        rate = 1000 * prefill["rows"] / prefill["step"]
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise SideError(f"{file} is no result of `quire bench engine`: {error!r}") from None
    model = replace(ServiceModel(rate, base_ms / 1000, row_ms / 1000), **changes)
    if min(model.prefill_tokens_s, model.base_s, model.chunk_tokens, model.rows) <= 0 or model.row_s < 0:
        raise SideError(f"no engine takes such times: {model}")
    return model
