"""PoolFeed: every block's cell, ten times a second, for all who watch; one question to the kvstore serves them all.

Nothing is asked while nobody watches. The kvstore tells what has changed since the last answer; this keeps the whole
picture, so that one who comes later has it at once. Each viewer has a few answers waiting; one that reads more slowly
loses those and gets the whole picture again, so that memory is bounded and what it sees is right, only less often.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from quire_kv import KVReader, PoolMap, QuireError
from quire_services.gateway.http.errors import unavailable
from quire_services.process.kvstore_call import kvstore_reader

PICTURE_S, RETRY_S = 0.1, 1.0
PICTURE_TIMEOUT_S = 2.0
MOST_VIEWERS = 16
MOST_WAITING = 8  # answers of a viewer
NO_KVSTORE = "no kvstore answers"


class Viewer:
    """One who watches. ``lagging``: the next thing it gets is the whole picture."""

    def __init__(self) -> None:
        self.waiting = deque[bytes]()
        self.lagging = True
        self.news = asyncio.Event()

    def put(self, event: bytes) -> None:
        """Let it have an event, unless it has too many already."""
        if self.lagging or len(self.waiting) >= MOST_WAITING:
            self.waiting.clear()
            self.lagging = True
        else:
            self.waiting.append(event)
        self.news.set()


class PoolFeed:
    """The cells of the kvstore in a run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._viewers = set[Viewer]()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "pool-feed")
        self._known: PoolMap | None = None
        self._names = list[str]()
        self._cells = np.zeros(0, "<u4")

    def insist_on_room(self) -> None:
        """Raise ApiError 503 if too many watch."""
        if len(self._viewers) >= MOST_VIEWERS:
            raise unavailable(f"{MOST_VIEWERS} dashboards are open already")

    @contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """Watch."""
        viewer = Viewer()
        self._viewers.add(viewer)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())
        elif self._known is not None:
            viewer.news.set()
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def events(self, viewer: Viewer) -> list[bytes]:
        """What is new for a viewer: the whole picture, or changes in order."""
        viewer.news.clear()
        if viewer.lagging and self._known is not None:
            viewer.lagging = False
            whole = self._known, self._names.copy(), self._cells.copy()
            return [await asyncio.get_running_loop().run_in_executor(None, _whole, *whole)]
        events = list(viewer.waiting)
        viewer.waiting.clear()
        return events

    async def _run(self) -> None:
        while self._viewers:  # some may have come while what the last ones needed was closed
            await self._watch()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        reader: KVReader | None = None
        try:
            while self._viewers:
                began = loop.time()
                try:
                    reader, answer = await loop.run_in_executor(self._thread, self._ask, reader)
                    event = await loop.run_in_executor(self._thread, self._take, answer)
                except (QuireError, OSError):
                    reader = await loop.run_in_executor(self._thread, _closed, reader)
                    self._known, event = None, sse("away", {"reason": NO_KVSTORE})
                for viewer in self._viewers:
                    if self._known is None:
                        viewer.waiting = deque([event])
                        viewer.lagging = True
                        viewer.news.set()
                    elif event or viewer.lagging:
                        viewer.put(event)
                period = PICTURE_S if self._known else RETRY_S
                await asyncio.sleep(max(0.0, began + period - loop.time()))
        finally:
            self._known = None
            await loop.run_in_executor(self._thread, _closed, reader)

    def _ask(self, reader: KVReader | None) -> tuple[KVReader, PoolMap]:
        if reader is None:
            reader = KVReader(self._run_dir, timeout=PICTURE_TIMEOUT_S)
        known = self._known
        if known is None:
            return reader, reader.pool_map()
        return reader, reader.pool_map(known.boot, known.version, len(self._names))

    def _take(self, answer: PoolMap) -> bytes:
        """Bring the picture up to date; the event that says what changed, empty if nothing did."""
        known = self._known
        if known is None or known.boot != answer.boot:
            self._names = []
            self._cells = np.zeros(answer.num_blocks, "<u4")
        first = len(self._names)
        self._names += answer.names
        cells = np.frombuffer(answer.cells, "<u4")
        if answer.blocks:
            self._cells[np.frombuffer(answer.blocks, "<u4")] = cells
        elif answer.cells:
            self._cells = cells.copy()
        self._known = answer
        if known is not None and known.version == answer.version and not answer.names:
            return b""
        return _event(answer, first, list(answer.names), answer.cells, answer.blocks)


def whole_map(run_dir: Path) -> dict[str, Any]:
    """The whole picture, asked for once. Raises QuireError or OSError."""
    with kvstore_reader(run_dir, PICTURE_TIMEOUT_S) as reader:
        answer = reader.pool_map()
        names = list(answer.names)
        while len(names) < answer.accounts and (more := reader.pool_map(answer.boot, answer.version, len(names)).names):
            names += more
    return {"object": "pool", **_fields(answer, 0, names, answer.cells, b"")}


def sse(kind: str, data: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def _whole(known: PoolMap, names: list[str], cells: Any) -> bytes:
    return _event(known, 0, names, cells.tobytes(), b"")


def _event(answer: PoolMap, first: int, names: list[str], cells: bytes, blocks: bytes) -> bytes:
    return sse("pool", _fields(answer, first, names, cells, blocks))


def _fields(answer: PoolMap, first: int, names: list[str], cells: bytes, blocks: bytes) -> dict[str, Any]:
    return {
        "boot": answer.boot.hex(),
        "version": answer.version,
        "num_blocks": answer.num_blocks,
        "blocks_by_state": answer.counts,
        "first_account": first,
        "accounts": names,
        "cells": base64.b64encode(cells).decode(),
        "blocks": base64.b64encode(blocks).decode(),
    }


def _closed(reader: KVReader | None) -> None:
    if reader is not None:
        reader.close()
