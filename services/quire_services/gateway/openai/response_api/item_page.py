"""Item page: some items of a conversation, which is kept as JSON with an item a line.

A conversation may be tens of megabytes long, and the loop has milliseconds: lines are looked for from where the page
begins, the rest is not touched, and where it begins is looked for a piece at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice

import orjson

from quire_services.gateway.http.errors import invalid

SLICE_BYTES = 1 << 20  # that are looked through between two looks at the sockets


async def item_page(texts: Sequence[bytes], after: str, limit: int, *, newest_first: bool) -> bytes:
    """The list object with up to ``limit`` items behind the one with the id ``after`` (or from the beginning), as JSON.
    Raises ApiError 400."""
    place, begin, end = await _found(texts, after) if after else (len(texts), 0, 0) if newest_first else (-1, 0, 0)
    lines = _backwards(texts, place, begin - 1) if newest_first else _forwards(texts, place, end + 1)
    found = list(islice(lines, limit + 1))
    page = found[:limit]
    ids = [orjson.loads(line)["id"] for line in (page[0], page[-1])] if page else ["", ""]
    head = {"object": "list", "first_id": ids[0], "last_id": ids[1], "has_more": len(found) > limit}
    return orjson.dumps(head)[:-1] + b',"data":[' + b",".join(page) + b"]}"


async def _found(texts: Sequence[bytes], identity: str) -> tuple[int, int, int]:
    """Which text has the item, and where its line begins and ends."""
    mark = b'{"id":%b,' % orjson.dumps(identity.encode(errors="replace").decode())
    for place, text in enumerate(texts):
        begin = await _line(text, mark)
        if begin is not None:
            end = text.find(b"\n", begin)
            return place, begin, len(text) if end < 0 else end
    raise invalid(f"'after': there is no item {identity[:80]!r}", "after")


async def _line(text: bytes, mark: bytes) -> int | None:
    """Where the line that begins with this begins."""
    if text.startswith(mark):
        return 0
    for begin in range(0, len(text), SLICE_BYTES):
        found = text.find(b"\n" + mark, begin, begin + SLICE_BYTES + len(mark))
        if found >= 0:
            return found + 1
        await asyncio.sleep(0)
    return None


def _forwards(texts: Sequence[bytes], place: int, begin: int) -> Iterator[bytes]:
    """Lines from a place in a text on."""
    for number in range(max(place, 0), len(texts)):
        text, at = texts[number], begin if number == place else 0
        while at < len(text):
            end = text.find(b"\n", at)
            end = len(text) if end < 0 else end
            yield text[at:end]
            at = end + 1


def _backwards(texts: Sequence[bytes], place: int, end: int) -> Iterator[bytes]:
    """Lines before a place in a text, the last one first."""
    for number in range(min(place, len(texts) - 1), -1, -1):
        text, at = texts[number], end if number == place else len(texts[number])
        while at > 0:
            begin = text.rfind(b"\n", 0, at) + 1
            yield text[begin:at]
            at = begin - 1
