"""The weight files of a model directory, by their headers: all there, whole, and quantised only as config.json says.

Owns what the safetensors format and the index beside it say without reading a weight. A safetensors file begins with
the length of a JSON header, which names each tensor with its type and place (https://github.com/huggingface/safetensors).

Quantised weights are there only where config.json says how (``quantisation``): a model that loads without their scales
answers from noise.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quire_engine.checkpoint.model_files import check_file, foreign, present, read_json
from quire_engine.checkpoint.refusal import ModelRefused

from .quantisation import UNQUANTISED, check_own_files, quantisation

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER = 100_000_000  # bytes; the format's own limit
PACKED = {"U8": 2, "I32": 8}  # weights of 4 bits in an element of these types
FLOATS = ("F64", "F32", "F16", "BF16")

# What a directory without model.safetensors may hold instead.
FOREIGN_WEIGHTS = (
    ("adapter_model.safetensors", "only an adapter: merge it into its base model and serve that"),
    ("consolidated*.safetensors", "only weights in their maker's own format: take those that transformers reads"),
    ("model-*-of-*.safetensors", f"its shards need their {INDEX}: download that file too"),
    ("*.safetensors", "its weights have names of their own: save the model with save_pretrained"),
    ("*.gguf", "only GGUF weights: take the checkpoint in safetensors format that they were made from"),
    ("*.bin", "only pickled weights, which can run code: convert them with save_pretrained"),
    ("*.pt*", "only pickled weights, which can run code: convert them with save_pretrained"),
)


def check_weights(directory: Path) -> None:
    """Raise ModelRefused unless all weights are there and whole, and none is quantised that config.json says nothing
    of."""
    check_own_files(directory)
    known = bool(quantisation(read_json(directory / "config.json")))  # one that is served, or it were refused before
    if present(directory / SINGLE):
        _check_types(directory / SINGLE, read_header(directory / SINGLE), known)
    elif present(directory / INDEX):
        _check_shards(directory, known)
    else:
        if what := foreign(os.listdir(directory), FOREIGN_WEIGHTS):
            raise ModelRefused(f"{directory} holds no {SINGLE}: {what}")
        raise ModelRefused(f"{directory} holds no .safetensors file: download the model's weights")


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a whole safetensors file: type ``dtype``, ``shape`` and ``data_offsets`` by name."""
    check_file(file)
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > MAX_HEADER:
            raise ModelRefused(f"{file} is not a safetensors file: download it again")
        if 8 + length > size:
            raise ModelRefused(f"{file} is cut off: {size} bytes, its header alone has {length}: download it again")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            whole = 8 + length + end
        except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
            raise ModelRefused(f"{file} is not a safetensors file: download it again") from None
    if whole > size:
        raise ModelRefused(f"{file} is cut off: {size} of {whole} bytes: download it again")
    if not header:
        raise ModelRefused(f"{file} holds no tensor: download it again")
    tensors: dict[str, dict[str, Any]] = header
    return tensors


def stored_elements(directory: Path) -> Counter[str]:
    """Elements of all weights in a whole model directory, by the format's name of their type (``BF16``)."""
    single = present(directory / SINGLE)
    names = {SINGLE} if single else set(read_json(directory / INDEX)["weight_map"].values())
    found: Counter[str] = Counter()
    for name in names:
        for tensor in read_header(directory / name).values():
            found[str(tensor.get("dtype"))] += math.prod(tensor.get("shape", ()))
    return found


def weight_elements(directory: Path) -> int:
    """Elements of all weights, those of quantised ones as they are when they are taken apart."""
    stored = stored_elements(directory)
    return sum(stored[kind] * PACKED.get(kind, 1) for kind in stored)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of ``names``, and how many there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


def _check_shards(directory: Path, known: bool) -> None:
    index = read_json(directory / INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise ModelRefused(f"{directory / INDEX} holds no weight_map: download it again")
    shards = sorted(set(weight_map.values()))
    lacking = [name for name in shards if not present(directory / name)]
    if lacking:
        raise ModelRefused(
            f"{directory} lacks {len(lacking)} of the {len(shards)} files that {INDEX} names ({some(lacking)}):"
            " download the model again"
        )
    found: set[str] = set()
    for name in shards:
        header = read_header(directory / name)
        _check_types(directory / name, header, known)
        found |= set(header)
    absent = set(weight_map) - found
    if absent:
        raise ModelRefused(
            f"{directory / INDEX} names {len(absent)} tensors that are in none of its files ({some(absent)}):"
            " download the model again"
        )


def _check_types(file: Path, header: Mapping[str, Mapping[str, Any]], known: bool) -> None:
    """Masks and positions may be whole numbers; weights that are, or are floats of 8 bits, are quantised."""
    if known:
        return
    packed = [name for name, tensor in header.items() if _is_packed(name, str(tensor.get("dtype")))]
    if packed:
        kind = header[min(packed)]["dtype"]
        raise ModelRefused(f"{file} holds quantised weights: {some(packed)} of type {kind}: {UNQUANTISED}")


def _is_packed(name: str, kind: str) -> bool:
    weight = name.endswith(("weight", "weights", "weight_packed", "_blocks", "qzeros", "proj"))
    return kind not in FLOATS and (weight or kind.startswith(("F8", "F6", "F4")))
