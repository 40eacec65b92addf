"""The one exception for a model that cannot be served. No import of ours or of a library: everything here raises it."""

from __future__ import annotations


class ModelRefused(ValueError):
    """This model cannot be served; the message says what it has that Quire cannot read, share or compute, and what
    to do about it.
    """
