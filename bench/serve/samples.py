"""What the pairs of one workload gave: figures of each side, what failed, and the tables made of both.

A side may fail in a pair while the others go on: its figures of that pair are missing, and the reason is kept and
printed. Medians are taken over the pairs a side has; a ratio needs the same pair of both sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.report.figures import median, table

OURS = "quire"
SHOWN = {
    "output_tokens_per_s": "tokens/s", "ttft_p50_s": "TTFT p50", "ttft_p99_s": "p99", "inter_token_p50_s": "token p50",
    "inter_token_p99_s": "p99", "e2e_p50_s": "e2e p50", "e2e_p99_s": "p99", "prompt_tokens_computed": "computed",
    "peak_kv_mib": "peak KV MiB", "prompt_kv_mib": "prompt KV MiB", "floor_share": "of the floor",
    "torch_floor_share": "of torch's",
}  # fmt: skip
PATIENCE = 2  # failures of a side in one workload, after which it is not asked again there

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A side that gave no figures in a pair. ``final``: asking again would end the same way."""

    side: str
    pair: int
    reason: str
    final: bool = False


@dataclass(slots=True)
class Samples:
    """One workload.

    Attributes:
        pairs: how many were begun.
        figures: by "side phase", then by pair.
        failures: in the order in which they came.
        agreements: of greedy answers in the pairs, ours and a peer's.
        compared: the same of each peer before the pairs.
    """

    pairs: int = 0
    figures: dict[str, dict[int, Figures]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    agreements: list[dict[str, float]] = field(default_factory=list)
    compared: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, side: str, phase: str, pair: int, figures: Figures) -> None:
        """Figures of one phase of one side in one pair."""
        self.figures.setdefault(f"{side} {phase}", {})[pair] = figures

    def fail(self, failure: Failure) -> None:
        """A side that gave none; a side that never gave any has a row in the tables nevertheless."""
        self.failures.append(failure)
        self.figures.setdefault(f"{failure.side} cold", {})

    def given_up(self, side: str) -> bool:
        """Whether to ask this side no more."""
        mine = [failure for failure in self.failures if failure.side == side]
        return len(mine) >= PATIENCE or any(failure.final for failure in mine)

    def medians(self) -> dict[str, Figures]:
        """Of each side and phase, over its pairs; nothing of a side that has none."""
        return {name: _medians(list(found.values())) for name, found in self.figures.items()}

    def rates(self, phase: str) -> dict[str, float]:
        """Output tokens a second of each side that has them."""
        found = {name.rpartition(" "): medians for name, medians in self.medians().items()}
        key = "output_tokens_per_s"
        return {side: medians[key] for (side, _, its), medians in found.items() if its == phase and key in medians}

    def ratios(self) -> dict[str, dict[str, float]]:
        """Ours / peer within each pair that has both, medians over the pairs."""
        found: dict[str, dict[str, float]] = {}
        for name, theirs in self.figures.items():
            side, _, phase = name.rpartition(" ")
            ours = self.figures.get(f"{OURS} {phase}", {})
            both = [(ours[pair], theirs[pair]) for pair in theirs if pair in ours]
            if side != OURS and both:
                found[name] = {key: ratio for key in SHOWN if (ratio := _ratio(both, key)) is not None}
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, single pairs included."""
        return {
            "pairs": self.pairs,
            "sides": self.medians(),
            "ratios": self.ratios(),
            "compared_first": self.compared,
            "agreement": self.agreements,
            "failures": [asdict(failure) for failure in self.failures],
            "samples": self.figures,
        }

    def tables(self, name: str) -> list[tuple[str, str]]:
        """Headings and tables."""
        measured = {side: f"{len(found)} of {self.pairs}" for side, found in self.figures.items()}
        rows: list[list[object]] = [
            [side, measured[side], *(found.get(key) for key in SHOWN)] for side, found in sorted(self.medians().items())
        ]
        tables = [(name, table(rows, ["side", "pairs", *SHOWN.values()]))]
        against: list[list[object]] = [
            [side, *(found.get(key) for key in SHOWN)] for side, found in sorted(self.ratios().items())
        ]
        if against:
            tables.append((f"{name}: ours / peer", table(against, ["against", *SHOWN.values()])))
        return tables

    def notes(self, name: str) -> list[str]:
        """Sentences: how far answers were equal, and every failure."""
        found = []
        for side, first in self.compared.items():
            found.append(f"{name}: before the pairs {first['equal']:.0%} of {side}'s greedy answers equal ours.")
        if self.agreements:
            equal = median(one["equal"] for one in self.agreements)
            found.append(f"{name}: {equal:.0%} of the greedy answers are equal, token by token.")
        for failure in self.failures:
            place = "before the pairs" if failure.pair < 0 else f"pair {failure.pair + 1}"
            found.append(f"{name}, {place}: {failure.side} failed: {failure.reason}")
        return found


def _medians(samples: list[Figures]) -> Figures:
    keys = dict.fromkeys(key for sample in samples for key in sample)
    return {key: median(sample[key] for sample in samples if key in sample) for key in keys}


def _ratio(both: list[tuple[Figures, Figures]], key: str) -> float | None:
    found = [ours[key] / theirs[key] for ours, theirs in both if theirs.get(key) and key in ours]
    return median(found) if found else None
