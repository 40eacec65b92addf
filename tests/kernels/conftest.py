"""Kernels run in Triton's interpreter, on the CPU, unless QUIRE_TEST_DEVICE names a GPU."""

from __future__ import annotations

import os

if os.environ.get("QUIRE_TEST_DEVICE", "cpu") == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the first kernel is defined
