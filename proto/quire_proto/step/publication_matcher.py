"""Matching requests against the publication list.

A request may use a publication if its tokens begin with all of it and its tenant is entitled to the domain. There
is no partial match: the timing of an answer then reveals nothing but what was declared shared. Tokens are compared
as packed bytes, one memcmp a candidate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from quire_proto.messages import Publication

PUBLIC = ("public",)


class PublicationList:
    """The publications this session may name, longest first.

    Attributes:
        generation: generation of the list; an older one than the kvstore's means: fetch it again.
    """

    def __init__(self, publications: Iterable[Publication] = (), generation: int = 0) -> None:
        self.replace(publications, generation)

    def replace(self, publications: Iterable[Publication], generation: int) -> None:
        """Take a new list over."""
        self.generation = generation
        self._longest_first = sorted(publications, key=lambda p: len(p.tokens), reverse=True)

    def __iter__(self) -> Iterator[Publication]:
        return iter(self._longest_first)

    def match(self, tokens: bytes, domains: Collection[str] = PUBLIC) -> Publication | None:
        """The longest publication of ``domains`` that the packed ``tokens`` begin with, or None."""
        for publication in self._longest_first:
            if publication.tokens and publication.domain in domains and tokens.startswith(publication.tokens):
                return publication
        return None
