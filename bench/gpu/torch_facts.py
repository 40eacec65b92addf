"""What PyTorch says of the first GPU, as one JSON object on the last line; ``null`` where it finds none.

A process of its own: a driver that hangs or fails takes nothing else with it.
"""

from __future__ import annotations

import json
from typing import Any


def facts() -> dict[str, Any] | None:
    """The first GPU, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    major, minor = torch.cuda.get_device_capability(0)
    return {
        "name": properties.name,
        "arch": f"sm_{major}{minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "cuda": torch.version.cuda,
    }


if __name__ == "__main__":
    print(json.dumps(facts()))
