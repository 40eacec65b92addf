"""Garbage collection of the processes that answer in microseconds.

CPython looks for unreachable cycles among all objects that live, whenever enough new ones have come. A kvstore has an
entry for each cached block, an engine all of torch: one full pass over a filled pool took 100 ms. What lives when the
work begins will live until its end, so it is taken out of these passes; and as the hot paths make no cycles, the others
come seldom. Reference counts free everything else at once, as ever.
"""

from __future__ import annotations

import atexit
import gc

YOUNG_THRESHOLD = 2_000  # between two passes over what is new: a tenth of a millisecond each
MIDDLE_THRESHOLD = 1  # such passes, between two over what survived one: less than a millisecond
OLD_THRESHOLD = 1_000_000  # over what is new, between two over everything: practically none


def tune_gc() -> None:
    """Call once, when everything that stays is there."""
    freeze_objects()
    gc.set_threshold(YOUNG_THRESHOLD, MIDDLE_THRESHOLD, OLD_THRESHOLD)


def freeze_objects() -> None:
    """Take what lives now out of all passes, for a process that goes on collecting as CPython does."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or what extension modules still own at the end is reported as leaked
