"""How fused layers arrange weights on this host: what distinguishes them from weights that were packed elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

from quire_engine.checkpoint.weights.identity import DENSE
from quire_kernels.cpu.host_library import NoHostLibrary, load, processor_features


def host_packing() -> tuple[str, str]:
    """Packing and variant of a weights key (``weights_key``): they change where layers are fused otherwise."""
    processor = hashlib.sha256(processor_features()).hexdigest()[:16]
    try:
        library = load()
    except NoHostLibrary:
        return DENSE, processor
    return f"panels of {int(library.quire_cpu_panel())} outputs", f"{Path(library._name).stem} {processor}"
