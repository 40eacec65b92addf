"""Whether the CPU's kernels can be had: ``{"why": ""}``, or why not. Compiles them if they were not yet."""

from __future__ import annotations

import json
import sys

from quire_kernels.cpu.host_library import NoHostLibrary, load


def main() -> None:
    """Print the answer."""
    try:
        load()
        why = ""
    except NoHostLibrary as error:
        why = str(error)
    sys.stdout.write(json.dumps({"why": why}) + "\n")


if __name__ == "__main__":
    main()
