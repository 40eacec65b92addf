"""The group rule: whether a run of keys that several sequences share is worth a group of its own.

Owns the choice as a balance of memory traffic, for one layer. Attended to as a group, the run is read once for each
tile of BLOCK_M rows times query heads, not once a sequence; in return every row gets further partial results (one for
each piece the split rule cuts the run into, and one for its private part, which would have been final), each written
and read as float32. So a group of ``members`` sequences with ``rows`` query rows over ``keys`` keys gains, in bytes,

    kv_heads * ((members - tiles) * 2 * keys * head_dim * itemsize
                - margin * rows * group * (pieces + 1) * 2 * 4 * (head_dim + 1)) - fixed_bytes

``margin`` weighs the partial results against the saved reads: what other sequences have just read comes from the L2
cache in part, what is written does not. ``fixed_bytes`` is what the memory could move while the group's kernel runs dry
before the next one starts. Few rows, short runs and many query heads for each KV head (a row then fills a tile alone)
do not pay; long prompts shared by many do. Both numbers come from ``group_table.json`` by architecture; where it has no
row they are ``DEFAULT_WEIGHTS``, a cautious guess and no measurement. The rule cannot change a result, only what is
read how often.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from quire_kernels.gpu.launch_table import INTERPRETER
from quire_kernels.gpu.split_rule import MIN_RUN, IntArray

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """The rule's two numbers; see the module's docstring."""

    margin: float
    fixed_bytes: int


DEFAULT_WEIGHTS = Weights(2.0, 8 << 20)
FREE = Weights(0.0, 0)  # the interpreter is there to prove groups, not to be fast


@dataclass(frozen=True, slots=True)
class GroupRule:
    """The rule for one model on one GPU.

    Attributes:
        kv_heads, group: KV heads; query heads for each.
        head_dim, itemsize: numbers of a key, and bytes of a number, as they lie in the arena.
        block_m: rows times ``group`` in a tile of the group regime.
        places: programs of the group regime that the GPU runs at a time.
        weights: of this architecture.
    """

    kv_heads: int
    group: int
    head_dim: int
    itemsize: int
    block_m: int
    places: int
    weights: Weights

    def gain(self, members: IntArray, rows: IntArray, keys: IntArray) -> FloatArray:
        """Bytes that each of some groups saves a layer, at most 0 if it does not pay. All arguments [groups]."""
        tiles = -(-rows // (self.block_m // self.group))
        places = np.maximum(self.places // (self.kv_heads * tiles), 1)
        pieces = np.minimum(-(-keys // MIN_RUN), places)
        saved = (members - tiles) * (2.0 * keys * self.head_dim * self.itemsize)
        partials = rows * self.group * (pieces + 1) * (2.0 * 4 * (self.head_dim + 1))
        gained = self.kv_heads * (saved - self.weights.margin * partials) - self.weights.fixed_bytes
        return np.asarray(gained, dtype=np.float64)


def weights_for(arch: str) -> Weights:
    """The numbers of an architecture (``sm_90`` and the like)."""
    return FREE if arch == INTERPRETER else _table().get(arch, DEFAULT_WEIGHTS)


@cache
def _table() -> dict[str, Weights]:
    """The checked-in rows."""
    text = files("quire_kernels").joinpath("group_table.json").read_text(encoding="utf-8")
    return {row["arch"]: Weights(row["margin"], row["fixed_bytes"]) for row in json.loads(text)["rows"]}
