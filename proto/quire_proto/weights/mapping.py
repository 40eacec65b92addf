"""A weights arena in a process: writable for its writer until it seals it, for all others read-only where that is
possible.

Memory behind a descriptor can be mapped for reading only, memory behind an IPC handle cannot: there a stray write of
one process is in the weights of all.
"""

from __future__ import annotations

from contextlib import suppress

from quire_proto.memory.cuda_driver import CudaError
from quire_proto.memory.cuda_mapping import DeviceMemory, Opened, open_handle
from quire_proto.wire.errors import DeviceFault, MapError
from quire_proto.wire.handles import Handle, ShmHandle

KIND = "weights"


class WeightsMapping:
    """One mapping of a weights arena; ``view`` is where it lies."""

    def __init__(self, handle: Handle, fd: int, *, read_only: bool) -> None:
        """Map it. ``fd`` is what came with the handle (-1: nothing) and stays the caller's. Raises MapError."""
        if handle.kind != KIND or isinstance(handle, ShmHandle):
            raise MapError(f"an arena of type {handle.type!r} and kind {handle.kind!r} is none of weights on a GPU")
        self._opened: Opened | None = open_handle(handle, fd, read_only=read_only)
        self.view: DeviceMemory = self._opened.memory

    @property
    def read_only(self) -> bool:
        """Whether nothing of this process can write there."""
        return self._opened is not None and self._opened.read_only

    def protect(self) -> None:
        """Make it read-only, if that is possible; the caller has waited for everything that writes there."""
        opened = self._opened
        if opened is not None and opened.protect is not None and not opened.read_only:
            with suppress(CudaError):  # a driver that maps for reading and writing only
                opened.protect()
                opened.read_only = True

    def close(self) -> None:
        """Unmap, whatever tensors still point there. Raises DeviceFault if the context is poisoned."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            opened.undo()
        except CudaError as exc:
            if exc.poisoned:
                raise DeviceFault(f"unmapping the weights: {exc}") from None
