"""The one exception for a model that cannot be served, and how it quotes others. No import of ours or of a library:
everything here raises it.
"""

from __future__ import annotations


class ModelRefused(ValueError):
    """This model cannot be served; the message says what it has that Quire cannot read, share or compute, and what
    to do about it.
    """


def first_line(error: BaseException) -> str:
    """What an exception says first, for a complaint of one line; empty if it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]
