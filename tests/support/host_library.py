"""What tests of the compiled CPU kernels need: a C compiler, or they are skipped and say why."""

from __future__ import annotations

import pytest

from quire_kernels.cpu import host_library


def need_host_library() -> None:
    """Skip the calling module where the host library cannot be compiled."""
    try:
        host_library.load()
    except host_library.NoHostLibrary as exc:
        pytest.skip(f"no compiled kernel here: {exc}", allow_module_level=True)
