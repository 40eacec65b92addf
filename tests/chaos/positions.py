"""Every place at which an engine can be lost: kill -9 and SIGSTOP at every seventh token of answers of every kind.

    python -m tests.chaos.positions [--every 7] [--models full window puppet] [--save NAME]

A stack of three engines. Each kind of answer (``tests.support.survival``) is streamed once undisturbed, and then once
for each of the places, where the engine that works on it is killed or stopped in turn; the bytes must be the same.
Last, one answer of each kind loses an engine at all its places. Ends with status 1 if any answer differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.report.figures import Report, percentile, table
from tests.chaos.request_lines import request_line
from tests.support.stack import Stack
from tests.support.survival import (
    CALLS,
    KINDS,
    MODELS,
    End,
    Streamed,
    hang,
    kill,
    same,
    settled,
    stream,
    surviving_stack,
    with_stop,
)

ENGINES = 3
ENDS: tuple[End, ...] = (kill, hang)
HEADER = ["model", "kind", "events", "kills", "stops", "choices moved", "computed again", "longest gap, s", "different"]


class Row:
    """What was done to answers of one kind, and found."""

    def __init__(self, model: str, kind: str) -> None:
        self.model, self.kind = model, kind
        self.events = self.kills = self.stops = self.moves = self.again = self.different = 0
        self.gaps: list[float] = []

    def add(self, stack: Stack, told: Streamed, ends: dict[int, End]) -> None:
        """One disturbed answer."""
        line = request_line(stack.log, told.request)
        self.kills += sum(end is kill for end in ends.values())
        self.stops += sum(end is hang for end in ends.values())
        self.moves, self.again = self.moves + line["moves"], self.again + line["recomputed_tokens"]
        self.gaps.append(max(b - a for a, b in zip(told.times, told.times[1:], strict=False)))
        if line["moves"] == 0:
            raise AssertionError(f"{self.kind}: no choice has moved at {sorted(ends)}")

    def cells(self) -> list[object]:
        """A row of the table."""
        again = f"{self.again / max(1, self.moves):.0f} a move"
        return [
            self.model, self.kind, self.events, self.kills, self.stops, self.moves, again, percentile(self.gaps, 1.0),
            self.different,
        ]  # fmt: skip


def positions(stack: Stack, model: str, every: int) -> Iterator[Row]:
    """All kinds that the model can answer, one after the other."""
    for kind, asked in (CALLS if model == "puppet" else KINDS).items():
        row = Row(model, kind)
        asked = with_stop(stack, asked) if kind == "stop string" else asked
        settled(stack, ENGINES)
        if kind == "published":
            stream(stack, asked)  # then what it has in common with others is cached
        whole = stream(stack, asked | salt(kind, "whole"))
        row.events = len(whole.lines)
        places = places_of(row.events, every * asked.get("n", 1))
        plans = [{place: ENDS[number % 2]} for number, place in enumerate(places)]
        for number, ends in enumerate([*plans, dict.fromkeys(places[:8], kill)]):
            settled(stack, ENGINES if len(ends) > 1 else 2)
            told = stream(stack, asked | salt(kind, str(number)), ends)
            row.add(stack, told, ends)
            if not same(told, whole):
                row.different += 1
                print(f"{model}, {kind}: another answer after {sorted(ends)}", flush=True)
        yield row


def places_of(events: int, every: int) -> list[int]:
    """After which events an engine is lost; not after the last ones, for which it may have done all already."""
    return list(range(every, events - 2 - every, every)) or [max(1, events // 3)]


def salt(kind: str, name: str) -> dict[str, Any]:
    """What keeps a request from finding the blocks of the same one before; a published prompt is to be found."""
    return {} if kind == "published" else {"cache_salt": f"{kind} {name}"}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Lose engines at every place of answers of every kind.")
    parser.add_argument("--every", type=int, default=7, help="events between two places")
    parser.add_argument("--models", nargs="+", default=[*MODELS, "puppet"], choices=[*MODELS, "puppet"])
    parser.add_argument("--save", help="write NAME.md and NAME.json under bench/results")
    arguments = parser.parse_args()
    began, rows = time.monotonic(), list[Row]()
    for model in arguments.models:
        with tempfile.TemporaryDirectory(prefix="quire-positions-") as directory:
            with surviving_stack(Path(directory), model, engines=ENGINES) as stack:
                for row in positions(stack, model, arguments.every):
                    rows.append(row)
                    print(*row.cells(), sep=" | ", flush=True)
    report = Report("positions", {"every": arguments.every, "models": arguments.models, "engines": ENGINES})
    report.command = f"python -m tests.chaos.positions --every {arguments.every} --models {' '.join(arguments.models)}"
    report.tables.append(("An engine lost at every place of an answer", table([row.cells() for row in rows], HEADER)))
    report.figures = {"seconds": time.monotonic() - began, "different": sum(row.different for row in rows)}
    report.write(arguments.save)
    report.show(as_json=False)
    return 1 if report.figures["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
