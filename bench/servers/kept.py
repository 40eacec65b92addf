"""Something that is slow to start and may die: started when first asked for, kept, and started anew after ``drop``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """As a context manager it stops what it started.

    Args:
        start: makes the thing, not yet entered; called once for each life of it.

    Attributes:
        value: the thing while it runs.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[T]]) -> None:
        self._start = start
        self._stack: contextlib.ExitStack | None = None
        self.value: T | None = None

    def get(self) -> T:
        """The thing, running. Raises what starting it raises."""
        if self.value is None:
            with contextlib.ExitStack() as stack:
                self.value = stack.enter_context(self._start())
                self._stack = stack.pop_all()
        return self.value

    def drop(self) -> None:
        """Stop it, if it runs; the next ``get`` starts another."""
        stack, self._stack, self.value = self._stack, None, None
        if stack is not None:
            stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
