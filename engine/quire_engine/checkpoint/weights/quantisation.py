"""Quantised checkpoints, by what their files say: which are served, and what the others would need.

Served are those that transformers turns back into floats while it loads them, with the libraries of the extra
``quantised``; on a GPU some stay as they are (``model/quantised.py``). All others are refused with the library that
they were made for: their scales mean something to its code alone, and a model that loads without them answers from
noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quire_engine.checkpoint.model_files import present, read_json
from quire_engine.checkpoint.refusal import ModelRefused

UNQUANTISED = "take the checkpoint with the original weights, or dequantise it"
# Method -> module that transformers reads it with; "" for none beside torch.
READ = {"mxfp4": "", "fp8": "accelerate", "compressed-tensors": "compressed_tensors"}
# Method -> library that it takes.
FOREIGN = {
    "awq": "gptqmodel", "gptq": "gptqmodel", "bitsandbytes": "bitsandbytes", "aqlm": "aqlm", "hqq": "hqq",
    "quanto": "optimum-quanto", "torchao": "torchao", "eetq": "eetq", "vptq": "vptq", "auto-round": "auto-round",
    "modelopt": "nvidia-modelopt", "FP8": "nvidia-modelopt", "NVFP4": "nvidia-modelopt", "fbgemm_fp8": "fbgemm-gpu",
    "quark": "amd-quark", "spqr": "spqr_quant", "fp_quant": "fp_quant", "mlx": "mlx-lm",
}  # fmt: skip
# Files beside config.json that some methods describe themselves in, and the method where they do not name it.
OWN_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


def quantisation(fields: Mapping[str, Any]) -> str:
    """The method that a config.json with these ``fields`` says the weights are quantised with; "" if they are not."""
    parts = [fields, *(part for part in fields.values() if isinstance(part, dict))]  # of several modalities
    for part in parts:
        for name in ("quantization_config", "compression_config", "quantization"):
            if part.get(name):
                return _method(part[name]) or ("mlx" if name == "quantization" else "an unnamed method")
    return ""


def check_quantisation(file: Path, fields: Mapping[str, Any]) -> None:
    """Raise ModelRefused if a config.json with these ``fields`` says that the weights are quantised, and they are not
    served as they are."""
    if method := quantisation(fields):
        _check(file, method)


def check_own_files(directory: Path) -> None:
    """The same of the files that methods describe themselves in."""
    for name, method in OWN_FILES.items():
        if present(directory / name):
            _check(directory / name, _method(read_json(directory / name)) or method)


def _check(file: Path, method: str) -> None:
    says = f"{file} says that the weights are quantised with {method}"
    if method not in READ:
        needs = f", which takes the library {FOREIGN[method]}" if method in FOREIGN else ""
        raise ModelRefused(f"{says}{needs}, and is not served: {UNQUANTISED}")
    module = READ[method]
    if module and find_spec(module) is None:
        raise ModelRefused(
            f"{says}, which takes the library {module.replace('_', '-')}: pip install 'quire-kv[quantised]'"
        )


def _method(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    inner = found.get("quantization")  # of hf_quant_config.json
    inner = inner if isinstance(inner, dict) else found
    method = next((str(inner[name]) for name in ("quant_method", "quant_algo") if inner.get(name)), "")
    if found.get("load_in_4bit") or found.get("load_in_8bit"):
        method = method or "bitsandbytes"
    return method
