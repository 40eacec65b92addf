"""A disk that saves when it is told to, so that anything can happen while a declaration is on its way there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future


class SlowDisk:
    """A disk that saves when it is told to."""

    def __init__(self) -> None:
        self._asked: list[tuple[Callable[[], None], Future[None]]] = []

    def submit(self, save: Callable[[], None], /) -> Future[None]:
        """Remember what to save."""
        self._asked.append((save, Future()))
        return self._asked[-1][1]

    def turn(self) -> int:
        """Save all that was asked for; how much that was."""
        asked, self._asked = self._asked, []
        for save, done in asked:
            try:
                save()
                done.set_result(None)
            except Exception as exc:
                done.set_exception(exc)
        return len(asked)
