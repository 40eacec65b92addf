"""Which weights an engine computes with: the key under which a host, or a GPU, keeps them once for all its engines.

Two engines whose keys are equal hold the same numbers in the same order at the same places, so one copy serves both.
What a key names is all that decides these numbers: the checkpoint, the type that is computed in, how they are packed,
the processor that this is for, and the code that loads, converts and packs them.

A checkpoint's identity (``Layout.weights``) covers small files whole and samples of large ones. Here that is not
enough: a large file in whose place another one is put, different between the samples alone, must not be answered from
the copy of the first. So a large file's size and time of change count, too.

A key does not say where the copy lies, nor that there is one. It needs no torch, and any process can compute it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import quire_engine
import quire_kernels
from quire_engine.checkpoint.layout import WHOLE_FILE

FORMAT = 1  # of the copy: how tensors lie in it, and how it says where
DENSE = "dense"  # packing: every weight as modelling code has it
CONVERTERS = ("torch", "transformers", "safetensors", "accelerate", "compressed-tensors", "numpy")
_CODE = (  # folders whose sources decide what is in a copy
    Path(quire_engine.__path__[0]) / "checkpoint",
    Path(quire_engine.__path__[0]) / "model",
    Path(quire_kernels.__path__[0]) / "cpu",
)


@dataclass(frozen=True, slots=True)
class WeightsKey:
    """What the numbers depend on.

    Attributes:
        checkpoint: identity of its configuration and weights.
        dtype: that they are converted to, as torch names it.
        packing: how they are arranged; ``DENSE``, or a name that whoever arranges them gives.
        variant: of processor or device, where the arrangement depends on it; else "".
        version: of format, code and libraries.
    """

    checkpoint: str
    dtype: str
    packing: str
    variant: str
    version: str

    @property
    def name(self) -> str:
        """32 hex digits, for a file or a region of memory."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def weights_key(directory: Path, checkpoint: str, dtype: str, packing: str = DENSE, variant: str = "") -> WeightsKey:
    """The key of the weights in ``directory``, whose ``Layout.weights`` is ``checkpoint``. Raises OSError."""
    large = [
        (file.name, found.st_size, found.st_mtime_ns)
        for file in sorted(directory.glob("*.safetensors"))
        if (found := file.stat()).st_size > WHOLE_FILE
    ]
    whole = hashlib.sha256(json.dumps([checkpoint, large]).encode()).hexdigest()
    return WeightsKey(whole, dtype, packing, variant, code_version())


@functools.cache
def code_version() -> str:
    """Changes with whatever may change what is made of a checkpoint: the sources' content, libraries, the format."""
    digest = hashlib.sha256(json.dumps([FORMAT, [_version(library) for library in CONVERTERS]]).encode())
    for folder in _CODE:
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".c", ".h"):
                digest.update(f"\n{file.relative_to(folder)} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
