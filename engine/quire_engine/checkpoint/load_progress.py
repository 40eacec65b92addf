"""How far transformers has come with a checkpoint, reported piece by piece.

transformers shows a bar of its own, which N engines on one terminal would draw over each other. Its bars can be
replaced by a hook; the one over the weights is replaced by a count, the others are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

WEIGHTS = "Loading weights"  # what transformers writes beside that bar
Report = Callable[[int, int], None]


@contextmanager
def watched(report: Report) -> Iterator[None]:
    """Within it, ``report(done, total)`` is called after each tensor that is loaded."""

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and kwargs.get("desc") == WEIGHTS and hasattr(args[0], "__len__"):
            return _counted(args[0], len(args[0]), report)
        return factory(*args, **kwargs)

    before = transformers_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def _counted(items: Iterable[Any], total: int, report: Report) -> Iterator[Any]:
    report(0, total)
    for done, item in enumerate(items, 1):
        yield item
        report(done, total)
