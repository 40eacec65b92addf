"""Memory that was freed, given back to the system.

Loading frees about as much as it keeps: what was read in another type, and what was packed. Allocators hold on to part
of that for later, and an engine never needs it again. glibc gives it back when it is told to, but for the end of each
thread's arena, some ten MiB; and so does tcmalloc, where an engine runs on that.
"""

from __future__ import annotations

import ctypes

_CALLS = (("malloc_trim", (0,)), ("MallocExtension_ReleaseFreeMemory", ()))


def return_freed_memory() -> None:
    """Have the process's allocator do so, if it is one of those."""
    process = ctypes.CDLL(None)
    for name, arguments in _CALLS:
        if (function := getattr(process, name, None)) is not None:
            function(*arguments)
