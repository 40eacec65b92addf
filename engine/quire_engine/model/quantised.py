"""Quantised checkpoints, loaded: turned back into floats, or on a GPU left as they are where something runs them there.

On a CPU every one of them becomes floats, in the type that the model computes in: nothing there multiplies the packed
forms faster. On a GPU an 8-bit float checkpoint of compressed-tensors runs on torch's own products, and block-wise FP8
and mxfp4 on kernels of the library ``kernels``, where that is installed. Activations are never quantised where weights
are not, so their scales in a checkpoint mean nothing then.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

FP8_PRODUCTS_SINCE = (8, 9)  # compute capability
STAYS_QUANTISED = "kept in"  # how what is said of a checkpoint begins whose weights stay quantised


def settle_quantisation(config: Any, device: torch.device | str) -> str:
    """Note in ``config`` how the checkpoint is to be loaded; in words, "" for one that is not quantised."""
    found = getattr(config, "quantization_config", None)
    if not isinstance(found, dict):
        return ""
    method = str(found.get("quant_method"))
    stays = torch.device(device).type == "cuda" and _runs_on_gpu(method, found, device)
    found["dequantize"] = not stays
    if stays and method == "compressed-tensors":
        found["use_optimized_inference"] = True
    return f"{STAYS_QUANTISED} {method}" if stays else f"dequantised from {method}"


def widen(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Bring what a quantised checkpoint held in a narrower type beside its packed weights to that of the model."""
    for weight in module.parameters():
        if weight.is_floating_point() and 1 < weight.element_size() < dtype.itemsize:
            weight.data = weight.data.to(dtype)


def _runs_on_gpu(method: str, found: dict[str, Any], device: torch.device | str) -> bool:
    """Whether something here multiplies such weights on that GPU."""
    if torch.cuda.get_device_capability(device) < FP8_PRODUCTS_SINCE:
        return False
    if method != "compressed-tensors":
        return find_spec("kernels") is not None
    groups = [group for group in (found.get("config_groups") or {}).values() if isinstance(group, dict)]
    weights = [group.get("weights") or {} for group in groups]
    return bool(weights) and all((w.get("type"), w.get("num_bits")) == ("float", 8) for w in weights)
