"""The layout of a model directory, without loading its weights.

Owns the identity that decides whether two processes may share a pool. ``quire prepare`` computes it for the
kvstore, every engine computes it from the directory it loads, and attach compares the two.

What the weights' identity covers: config.json without the fields that change nothing computed, and every
safetensors file. A file of up to 256 MiB is hashed whole. Of a larger one the header (names, types, shapes and
places of all tensors), the size and 256 evenly spread samples of 64 KiB are hashed: that tells checkpoints,
fine-tunes and truncated copies apart, but not two files that differ only between the samples. It is an identity
against mistakes, not a seal against forgery.
"""

from __future__ import annotations

import hashlib
import json
from io import BufferedReader
from pathlib import Path

from quire_kv import DTYPE_BYTES, Layout

from .architecture import ModelRefused, canonical, kv_shape, read_config, rope_json, text_config
from .demands.positions import served_length
from .kv_scales import scales_identity
from .model_name import model_name
from .weights.weight_files import check_weights

WHOLE_FILE = 256 << 20
SAMPLES = 256
SAMPLE_BYTES = 64 << 10
# Written by tools, not read by models.
NOT_IDENTITY = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "use_cache")


def layout_of(directory: Path | str, dtype: str, block_size: int) -> Layout:
    """The layout of the model in ``directory`` for keys and values that are stored as ``dtype``.

    Raises ModelRefused (a ValueError) for a model that cannot be served, OSError for files that cannot be read.
    """
    directory = Path(directory)
    if dtype not in DTYPE_BYTES:
        raise ModelRefused(f"dtype {dtype!r} is none of {', '.join(DTYPE_BYTES)}")
    config = text_config(read_config(directory))
    layers, kv_heads, head_dim = kv_shape(config)
    return Layout(
        model=model_name(directory.resolve()),
        weights=weights_identity(directory),
        rope=rope_json(config),
        adapter="",
        dtype=dtype,
        block_size=block_size,
        num_layers=layers,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        scales=scales_identity(directory, dtype, layers, kv_heads),
    )


def max_model_len(directory: Path | str, wanted: int = 0) -> int:
    """Tokens of the longest sequence that the model in ``directory`` is served for; see ``served_length``."""
    return served_length(text_config(read_config(Path(directory))), wanted)


def weights_identity(directory: Path) -> str:
    """Identity of configuration and weights, 64 hex digits; see the module's docstring for what it covers."""
    check_weights(directory)
    files = sorted(directory.glob("*.safetensors"))
    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    whole = hashlib.sha256(canonical({k: v for k, v in fields.items() if k not in NOT_IDENTITY}).encode())
    for file in files:
        with file.open("rb") as stream:
            whole.update(f"\n{file.name} {file.stat().st_size} {_content(stream, file.stat().st_size)}".encode())
    return whole.hexdigest()


def _content(stream: BufferedReader, size: int) -> str:
    """Hash of a file's bytes, or of its header and samples if it is large."""
    if size <= WHOLE_FILE:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    prefix = stream.read(8)  # a safetensors file begins with the length of its JSON header
    header = min(int.from_bytes(prefix, "little"), WHOLE_FILE)
    digest.update(prefix + stream.read(header))
    for i in range(SAMPLES):
        stream.seek((size - SAMPLE_BYTES) * i // (SAMPLES - 1))
        digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()
