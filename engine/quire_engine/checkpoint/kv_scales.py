"""Scales of keys and values that are stored as e4m3: read beside the weights, part of the layout.

An e4m3 number has three bits of mantissa wherever it lies between 2**-6 and 448: what matters about a scale is only
that a head's keys and values fall into that range. So scales are static, one for each layer and KV head, and stored is
``x / scale``. They come from ``kv_scales.json`` in the model's directory, which ``quire calibrate`` writes:

    {"keys": [[s, ...one a KV head] ...one row a layer], "values": [[...] ...]}

Without that file all are 1. Engines that share a pool must divide and multiply by the same numbers: their identity
stands in the layout. No torch here: ``quire prepare`` reads this too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire_proto.wire.layout import E4M3

from .architecture import ModelRefused, canonical

FILE = "kv_scales.json"
LARGEST = 448.0  # the largest finite e4m3 number
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KvScales:
    """Scales of keys and values, each [layers, kv_heads] float32, finite and above 0."""

    keys: FloatArray
    values: FloatArray

    @classmethod
    def ones(cls, layers: int, kv_heads: int) -> KvScales:
        """Stored as they are."""
        return cls(np.ones((layers, kv_heads), np.float32), np.ones((layers, kv_heads), np.float32))

    @classmethod
    def read(cls, directory: Path, layers: int, kv_heads: int) -> KvScales:
        """The scales of the model in ``directory``, all 1 without a file. Raises ModelRefused or OSError."""
        file = directory / FILE
        if not file.exists():
            return cls.ones(layers, kv_heads)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelRefused(f"{file} is not JSON: {error}") from None
        if not isinstance(content, dict) or set(content) != {"keys", "values"}:
            raise ModelRefused(f"{file}: expected the fields 'keys' and 'values' and no other")
        return cls(*(_rows(file, name, content[name], (layers, kv_heads)) for name in ("keys", "values")))

    def write(self, directory: Path) -> None:
        """Write the file that :meth:`read` reads."""
        text = json.dumps({"keys": self.keys.tolist(), "values": self.values.tolist()})
        (directory / FILE).write_text(text + "\n", encoding="utf-8")

    def identity(self) -> str:
        """32 hex digits, or "" if all scales are 1."""
        if (self.keys == 1).all() and (self.values == 1).all():
            return ""
        text = canonical([self.keys.tolist(), self.values.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def scales_identity(directory: Path, dtype: str, layers: int, kv_heads: int) -> str:
    """The layout's field ``scales`` for keys and values of ``dtype``. Raises ModelRefused or OSError."""
    return KvScales.read(directory, layers, kv_heads).identity() if dtype == E4M3 else ""


def _rows(file: Path, name: str, rows: Any, shape: tuple[int, int]) -> FloatArray:
    try:
        array = np.array(rows, dtype=np.float32)
    except (TypeError, ValueError):
        array = np.empty(0, np.float32)
    if array.shape != shape or not (np.isfinite(array) & (array > 0)).all():
        raise ModelRefused(
            f"{file}: {name!r} must be {shape[0]} rows (layers) of {shape[1]} numbers above 0 (KV heads)"
        )
    return array
