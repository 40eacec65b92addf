"""Bugs planted into publications and groups, as ``planted`` does it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quire_kvstore.ops import allocate, publish
from quire_kvstore.sharing.groups import Groups
from quire_kvstore.sharing.publications import PublicationList, PublishedPrompt
from quire_kvstore.state import State
from tests.proofs.planted import Patch, declaration_not_saved


def unpublish_leaves_a_pin(patch: pytest.MonkeyPatch) -> None:
    """The last block of a publication that was taken back stays pinned."""
    real = publish.unpublish

    def unpublish(state: State, publication: PublishedPrompt) -> None:
        if publication.table is not None:
            publication.table = publication.table[:-1]
        real(state, publication)

    patch.setattr(publish, "unpublish", unpublish)


def former_member_matches(patch: pytest.MonkeyPatch) -> None:
    """A tenant that has left a group is gone from the list of its members, and still entitled."""

    def leave(self: Groups, tenant: str, group: str) -> None:
        self.joined.discard((group, tenant))
        self._left(group)

    patch.setattr(Groups, "leave", leave)


def any_tenant_is_entitled(patch: pytest.MonkeyPatch) -> None:
    """Any tenant that knows a publication's name may share it, whatever its domain."""
    real = allocate.refusal

    def refusal(state: State, session: Any, item: Any, publication: PublishedPrompt | None) -> int:
        return real(state, session, item, publication and replace(publication, domain="public"))

    patch.setattr(allocate, "refusal", refusal)


def generation_not_compared(patch: pytest.MonkeyPatch) -> None:
    """A name means whatever is published under it now, even for a client that knows another prompt by it."""
    real = allocate.refusal

    def refusal(state: State, session: Any, item: Any, publication: PublishedPrompt | None) -> int:
        generation = 0 if publication is None else publication.generation
        return real(state, session, replace(item, publication_generation=generation), publication)

    patch.setattr(allocate, "refusal", refusal)


def leaving_keeps_the_generations(patch: pytest.MonkeyPatch) -> None:
    """After a tenant left a group its publications are called what the former member knew them by."""
    real = PublicationList.changed

    def changed(self: PublicationList, _domain: str | None = None) -> None:
        real(self)

    patch.setattr(PublicationList, "changed", changed)


SHARING_BUGS: list[Patch] = [
    unpublish_leaves_a_pin,
    former_member_matches,
    any_tenant_is_entitled,
    generation_not_compared,
    leaving_keeps_the_generations,
    declaration_not_saved,
]
