"""The step's tiles on the device: one buffer, one copy, fixed addresses.

Owns the packing of everything the kernels read about a step (tiles, rows, merge list, positions, slots, block
tables) into one int32 buffer with a section each. A buffer of given capacities is refilled step after step: its
addresses and the launch grids never change, so that captured graphs stay valid; how much of each section is meant
stands in the ``counts`` section, on the device.

Invariant: padded rows (from the step's rows to the capacity) have slot -1 and belong to no tile, so no kernel
reads or writes anything for them.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from .split_rule import IntArray, most_cuts
from .tiling import RECORD, REGIMES, Shape, Tiles

SECTION_ALIGN = 4  # int32 words: sections begin at multiples of 16 bytes, which vector loads need


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room for each section, in entries; sizes of tables in block ids."""

    decode: int
    group: int
    prefill: int
    entries: int
    merge_rows: int
    merge_places: int
    rows: int
    table: int

    @classmethod
    def of(cls, tiles: Tiles, rows: int, table: int) -> Capacity:
        """Exactly what this step needs."""
        decode, group, prefill = (len(tiles.records[name]) for name in REGIMES)
        merged = len(tiles.merge_rows)
        return cls(decode, group, prefill, len(tiles.rows), merged, tiles.partials, rows, table)

    @classmethod
    def for_decode(cls, rows: int, levels: int, table: int, shape: Shape) -> Capacity:
        """Enough for any step of ``rows`` sequences with one token each, unless runs are of fixed length.

        The split rule cuts a tile into 1 + x runs, where all x of a regime together are at most ``most_cuts``. A row is
        in one decode tile and in at most ``levels`` group tiles; each run has an entry for each row of its tile.
        """
        cuts = {name: most_cuts(shape.kv_heads, shape.places(name)) for name in ("decode", "group")}
        decode, group = rows + cuts["decode"], levels * rows + cuts["group"]
        entries = decode + levels * rows + min(rows, shape.rows("group")) * cuts["group"]
        return cls(decode, group, 0, entries, rows, entries, rows, table)


class DeviceWork:
    """A step's tiles on a device.

    Args:
        capacity: room in each section, for good.
        device: where the kernels run.

    Attributes:
        counts: [4] int32, tiles of each regime and rows to merge.
        tiles: by regime, [capacity, len(RECORD)] int32.
        rows, places, merge_rows, merge_ptr, merge_places, positions, slots, table: int32 sections.
        capacity: as given.
        used: what the last refill needed.
        window: window of the tiles.
        partials: places that the last refill needed.
    """

    def __init__(self, capacity: Capacity, device: torch.device) -> None:
        self.capacity = capacity
        self.used = Capacity(*([0] * len(astuple(capacity))))
        self.window: int | None = None
        self.partials = 0
        width = len(RECORD)
        sizes = {
            "counts": len(REGIMES) + 1,
            **{name: getattr(capacity, name) * width for name in REGIMES},
            "rows": capacity.entries,
            "places": capacity.entries,
            "merge_rows": capacity.merge_rows,
            "merge_ptr": capacity.merge_rows + 1,
            "merge_places": capacity.merge_places,
            "positions": capacity.rows,
            "slots": capacity.rows,
            "table": capacity.table,
        }
        self._sections: dict[str, slice] = {}
        end = 0
        for name, size in sizes.items():
            self._sections[name] = slice(end, end + size)
            end += -(-size // SECTION_ALIGN) * SECTION_ALIGN
        self._host = torch.zeros(end, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._device = torch.zeros(end, dtype=torch.int32, device=device)
        self.counts, self.rows, self.places = self._view("counts"), self._view("rows"), self._view("places")
        self.merge_rows, self.merge_ptr = self._view("merge_rows"), self._view("merge_ptr")
        self.merge_places, self.positions = self._view("merge_places"), self._view("positions")
        self.slots, self.table = self._view("slots"), self._view("table")
        self.tiles = {name: self._view(name).view(-1, width) for name in REGIMES}

    def refill(self, tiles: Tiles, positions: IntArray, slots: IntArray, table: IntArray) -> None:
        """Take over a step; the copy to the device is queued on the current stream.

        Waits until the copy of the step before has left the host's buffer, and for nothing else.

        Raises:
            ValueError: the step exceeds a capacity.
        """
        used = Capacity.of(tiles, len(positions), len(table))
        for name in Capacity.__dataclass_fields__:
            if getattr(used, name) > getattr(self.capacity, name):
                raise ValueError(f"{getattr(used, name)} {name} exceed the capacity of {getattr(self.capacity, name)}")
        if self._copied is not None:
            self._copied.synchronize()
        counts = [len(tiles.records[name]) for name in REGIMES] + [len(tiles.merge_rows)]
        self._put("counts", np.array(counts))
        for name in REGIMES:
            self._put(name, tiles.records[name].reshape(-1))
        for name in ("rows", "places", "merge_rows", "merge_ptr", "merge_places"):
            self._put(name, getattr(tiles, name))
        self._put("positions", positions)
        self._put("slots", slots)
        self._host[self._sections["slots"]][len(slots) :] = -1
        self._put("table", table)
        end = self._sections["table"].start + len(table)  # the last section: the rest of it need not travel
        self._device[:end].copy_(self._host[:end], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self.used, self.window, self.partials = replace(used), tiles.window, tiles.partials

    def count(self, name: str) -> torch.Tensor:
        """[1] int32 on the device: tiles of a regime, or rows to ``merge``."""
        index = (*REGIMES, "merge").index(name)
        return self.counts[index : index + 1]

    def _view(self, name: str) -> torch.Tensor:
        return self._device[self._sections[name]]

    def _put(self, name: str, values: npt.NDArray[np.integer]) -> None:
        """Write the beginning of a section."""
        begin = self._sections[name].start
        self._host.numpy()[begin : begin + len(values)] = values
