"""How many blocks a pool has: as many as were asked for, or as many as fit the bytes that were.

Bytes are an amount, or a share of what is free where the pool is to lie. On a GPU that is what its engines will leave
free, which are not there yet, and most of that is the size where none is asked for. What is free is measured once in
the life of a pool's run directory: the roster keeps what came of it, so that a kvstore that is started again after a
crash has the size of the one before, however much its engines hold by then. After an orderly end it is measured anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from quire_proto.memory import cuda_driver as driver
from quire_proto.memory.cuda_device import Device
from quire_proto.memory.cuda_driver import CudaError

from .arena import SHM_DIR, ArenaError, Roster
from .host_space import free_bytes

GIB = 1 << 30
MAX_BLOCKS = 2**31 - 1
HOST_BLOCKS = 4096  # where no size is asked for
DEVICE_FRACTION = 0.95  # the same on a GPU; the rest is for what was reckoned too low


class AskedSize(Protocol):
    """The three ways to say a size, each 0 where it is not the one."""

    @property
    def blocks(self) -> int:
        """Blocks."""
        ...

    @property
    def kv_gib(self) -> float:
        """GiB."""
        ...

    @property
    def kv_fraction(self) -> float:
        """Share of what is free."""
        ...


@dataclass(frozen=True, slots=True)
class PoolSize:
    """A size, and what it comes from: the setting, and what was measured for it."""

    blocks: int
    reason: str


def pool_size(asked: AskedSize, block_bytes: int, device: Device | None, roster: Roster, engines: int = 0) -> PoolSize:
    """The size of a pool of such blocks, on a GPU or (None) in host memory. Raises ArenaError, OSError.

    Args:
        engines: bytes that engines will need of the GPU.
    """
    if asked.kv_gib:
        return _within(int(asked.kv_gib * GIB), block_bytes, f"kv_gib = {asked.kv_gib:g}")
    if asked.blocks or (not asked.kv_fraction and not device):
        blocks = asked.blocks or HOST_BLOCKS
        return PoolSize(blocks, f"blocks = {blocks}")
    fraction = asked.kv_fraction or DEVICE_FRACTION
    share = f"kv_fraction = {fraction:g}"
    where = device.uuid if device else str(SHM_DIR)
    measured = f"{share} of what is free on {where}, in blocks of {block_bytes} bytes"
    if before := _kept(roster, measured):
        return before
    free, what = (_device_free(device), f"bytes free on {where}") if device else free_bytes(SHM_DIR)
    if device and engines:
        what += f" less {engines:,} for engines"
        if engines >= free:
            raise ArenaError(
                f"{free:,} {what}: nothing is left for a pool: run fewer engines, make their steps smaller"
                " (--max-batch-tokens, --max-sequences), or say --kv-gib if they need less"
            )
    size = _within(int((free - engines * bool(device)) * fraction), block_bytes, f"{share} of {free:,} {what}")
    roster.keep({"measured": measured, "blocks": size.blocks, "reason": size.reason})
    return size


def _within(size: int, block_bytes: int, reason: str) -> PoolSize:
    """As many blocks as fit ``size`` bytes. Raises ArenaError for none, and for more than there may be."""
    blocks = size // block_bytes
    if not blocks:
        raise ArenaError(f"{reason}: {size:,} bytes hold no block, one has {block_bytes:,}: give the pool more")
    if blocks > MAX_BLOCKS:
        raise ArenaError(f"{reason}: {blocks:,} blocks are more than {MAX_BLOCKS:,}: give the pool less")
    return PoolSize(blocks, reason)


def _kept(roster: Roster, measured: str) -> PoolSize | None:
    """What the life before had measured for the same, if the roster says so."""
    found = roster.size
    blocks, reason = found.get("blocks"), found.get("reason")
    if found.get("measured") != measured or not isinstance(reason, str) or type(blocks) is not int:
        return None
    return PoolSize(blocks, reason) if 0 < blocks <= MAX_BLOCKS else None


def _device_free(device: Device) -> int:
    """Bytes that nothing uses on a GPU; the driver tells a context only, which is made for that and given back."""
    try:
        driver.enter(device.ordinal)
        try:
            return driver.free_bytes()
        finally:
            driver.leave(device.ordinal)
    except CudaError as exc:
        raise ArenaError(f"{device.uuid}: {exc}: what is free cannot be found out, choose --kv-gib instead") from None
