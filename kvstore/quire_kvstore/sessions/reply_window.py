"""ReplyWindow: strict order of a session's mutations, and the same reply to the same bytes.

A session's ordered requests are numbered from 1. The next number is executed; the last ``WINDOW`` replies are kept,
so that a resend (the same bytes again) gets the same reply and changes nothing. A number ahead of the next one is a
gap and is not consumed; a known number with other bytes is an error of the client.

A long request is executed in slices (``slices``): until the last of them its number is not consumed, and its resends
go on with it, whichever connection they came by.

The window keeps a hash of each request instead of the request: sixteen bytes for what may be sixteen megabytes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Generator

from quire_kvstore.errors import Refusal

WINDOW = 8

Rest = Generator[bool, None, object]


class ReplyWindow:
    """Replies of one session.

    Attributes:
        running: the slices that are left of the request with the next number; None: it was not begun.
    """

    def __init__(self) -> None:
        self.next_number = 1
        self.running: Rest | None = None
        self._frame = b""  # of the request that is running
        self._replies: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()

    def repeated(self, number: int, frame: bytes) -> bytes | None:
        """The cached reply of a resend, or None if ``number`` is to be executed now; raises Refusal otherwise."""
        if number == self.next_number and (self.running is None or self._frame == frame):
            return None
        if number == self.next_number:
            raise Refusal("NUMBER_REUSED", f"number {number} is being executed, with other bytes")
        if number > self.next_number:
            expected = self.next_number
            raise Refusal("OUT_OF_ORDER", f"number {number}; {expected} is expected next", {"expected": expected})
        kept = self._replies.get(number)
        if kept is None:
            raise Refusal("NUMBER_REUSED", f"number {number} was answered and is older than the window of {WINDOW}")
        if kept[0] != _hash(frame):
            raise Refusal("NUMBER_REUSED", f"number {number} was used for other bytes")
        return kept[1]

    def begin(self, frame: bytes, slices: Rest) -> None:
        """The request with the next number was begun."""
        self._frame, self.running = frame, slices

    def keep(self, number: int, frame: bytes, reply: bytes) -> None:
        """Consume ``number``: its reply is this one from now on."""
        assert number == self.next_number, "numbers are consumed in order"
        self.next_number += 1
        self._frame, self.running = b"", None
        self._replies[number] = (_hash(frame), reply)
        if len(self._replies) > WINDOW:
            self._replies.popitem(last=False)


def _hash(frame: bytes) -> bytes:
    return hashlib.blake2b(frame, digest_size=16).digest()
