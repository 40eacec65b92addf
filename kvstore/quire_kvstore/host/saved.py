"""Declarations: groups and publications as documents of the state directory, saved and brought back.

``groups.json`` holds all groups, ``publications/ID.json`` one prompt that was published while a kvstore ran. Prompts
that the configuration publishes are not kept: the configuration says them again at each start.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from quire_kvstore.sharing.groups import Groups, Member
from quire_kvstore.sharing.publications import PublicationList, PublishedPrompt

from .state_dir import StateDir, StateError

GROUPS_DOCUMENT = "groups"
PUBLICATIONS_FOLDER = "publications"


class Declarations:
    """What a kvstore keeps of its declarations."""

    def __init__(self, state: StateDir) -> None:
        self._state = state

    def groups(self, declared: Iterable[Member]) -> Groups:
        """The groups as they were, adjusted to the present configuration and saved. Raises StateError."""
        document = self._state.read(GROUPS_DOCUMENT)
        if document is None:
            groups = Groups(declared)
        else:
            try:
                groups = Groups.restored(document, declared)
            except ValueError as exc:
                where = f"{self._state.path / GROUPS_DOCUMENT}.json"
                raise StateError(f"{where}: {exc}; repair it or move it away") from None
        if groups.document() != document and (document is not None or groups.members()):
            self.save_groups(groups)
        return groups

    def save_groups(self, groups: Groups) -> None:
        """Keep the groups. Raises StateError."""
        self._state.write(GROUPS_DOCUMENT, groups.document())

    def restore_publications(self, publications: PublicationList) -> None:
        """Enter every publication that was kept, but for ids that are taken. Raises StateError."""
        for name in self._state.names(PUBLICATIONS_FOLDER):
            document = self._state.read(name) or {}
            identity = name.removeprefix(f"{PUBLICATIONS_FOLDER}/")
            if publications.get(identity) is not None:
                continue
            try:
                tokens = base64.b64decode(document["tokens"], validate=True)
                publications.add(identity, str(document["domain"]), tokens, live=True)
            except (ValueError, KeyError, TypeError, binascii.Error) as exc:
                where = f"{self._state.path / name}.json"
                raise StateError(f"{where}: not a publication ({exc}); repair it or move it away") from None

    def save_publication(self, published: PublishedPrompt) -> None:
        """Keep a publication. Raises StateError."""
        tokens = base64.b64encode(published.packed).decode()
        self._state.write(f"{PUBLICATIONS_FOLDER}/{published.id}", {"domain": published.domain, "tokens": tokens})

    def forget_publication(self, identity: str) -> None:
        """Keep a publication no more. Raises StateError."""
        self._state.remove(f"{PUBLICATIONS_FOLDER}/{identity}")
