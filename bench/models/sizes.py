"""The models of the benches: random fp32 Llamas of two sizes, written once under ``build/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "build" / "bench-models"
MAX_LEN = 8192
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "vocab": 512},
    "27m": {"layers": 8, "hidden": 512, "heads": 8, "kv_heads": 4, "vocab": 8000},
    "125m": {"layers": 12, "hidden": 1024, "heads": 16, "kv_heads": 4, "vocab": 8000},
}


def model_directory(size: str) -> Path:
    """The directory of a model, made if it is not there (seconds; torch is imported only then)."""
    directory = MODELS / f"llama-{size}"
    if not (directory / "done").exists():
        from .tiny import make_model

        make_model(directory, "llama", max_len=MAX_LEN, **SIZES[size])
        (directory / "done").touch()
    return directory


def words(size: str) -> int:
    """How many different words (one token each) a prompt for this model can hold."""
    from .tiny import FIRST_WORD

    return int(SIZES[size]["vocab"]) - FIRST_WORD


def kv_bytes_per_token(size: str) -> int:
    """Bytes of K and V of one token in fp32."""
    shape = SIZES[size]
    return int(2 * shape["layers"] * shape["kv_heads"] * (shape["hidden"] // shape["heads"]) * 4)
