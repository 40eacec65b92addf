"""Bugs planted into eviction by density, as ``planted`` does it."""

from __future__ import annotations

import pytest

from quire_kvstore.blocks.density_policy import DensityPolicy
from quire_kvstore.blocks.reuse_model import ReuseModel
from tests.proofs.planted import Patch


def parent_kept_behind_a_publication(patch: pytest.MonkeyPatch) -> None:
    """A block that hangs on a publication now still counts as a child of its former parent."""
    patch.setattr(DensityPolicy, "anchored", lambda *_: None)


def groups_kept(patch: pytest.MonkeyPatch) -> None:
    """The first quota of a tenant leaves its cached blocks in the heaps of all."""
    patch.setattr(DensityPolicy, "regroup", lambda _: None)


def wait_not_ended(patch: pytest.MonkeyPatch) -> None:
    """A hit does not end the wait of its block."""
    patch.setattr(ReuseModel, "end", lambda *_: None)


DENSITY_BUGS: tuple[Patch, ...] = (parent_kept_behind_a_publication, groups_kept, wait_not_ended)
