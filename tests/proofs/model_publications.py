"""The naive model of administration: publish, unpublish, join, leave, and what they mean for requests that wait."""

from __future__ import annotations

from tests.proofs.model_claims import ClaimModel
from tests.proofs.model_sharing import PUBLIC


class PublishingModel(ClaimModel):
    """Every operation of engines and of people. Methods that return a code say what must be answered."""

    def may_publish(self, domain: str, tenant: str) -> str:
        """Why the operator (no tenant) or a tenant may not change what a domain shares."""
        if not tenant:
            exists = domain == PUBLIC or any(group == domain for group, _ in self.sharing.members)
            return "" if exists else "BAD_FIELD"
        return "" if (domain, tenant) in self.sharing.members else "NOT_PERMITTED"

    def publish(self, name: str, domain: str, tokens: list[int], tenant: str) -> str:
        """The answer to a publish, "" for yes. What is said again, or refused, changes nothing."""
        sharing, old = self.sharing, self.sharing.publications.get(name)
        code = self.may_publish(domain, tenant)
        if code:
            return code
        if old is not None and old.domain != domain:
            return "CONFLICT"
        if old is not None and old.tokens == tokens:
            return ""
        return "" if sharing.pinned(but=name) + sharing.blocks(len(tokens)) <= sharing.budget else "CONFLICT"

    def published(self, name: str, domain: str, tokens: list[int], generation: int) -> None:
        """It was answered with a generation: the old one of its own if nothing changed, else the list's next."""
        old = self.sharing.publications.get(name)
        if old is not None and old.tokens == tokens:
            assert generation == old.generation, "a publication that was there"
            return
        if old is not None:
            self.vanish(name)
        self.moved(generation)
        self.sharing.enter(name, domain, tokens, generation)

    def unpublish(self, name: str, tenant: str) -> str:
        """The answer to an unpublish; a tenant that may not use a publication does not learn that it is there."""
        publication = self.sharing.publications.get(name)
        if publication is None or (tenant and not self.sharing.entitled(tenant, publication.domain)):
            return "NOT_FOUND"
        return self.may_publish(publication.domain, tenant)

    def vanish(self, name: str) -> None:
        """A publication is gone: its pins come back, and a request that waits for it is told to ask again."""
        self.made({self.sharing.publications.pop(name).key})

    def moved(self, generation: int) -> None:
        """The list is another one: its generation is one that it never had."""
        assert generation > self.sharing.generation, "a change that clients do not see"
        self.sharing.generation = generation

    def joined(self, tenant: str, group: str, generation: int) -> None:
        """A tenant is a member now; one that was a member already changes nothing."""
        if (group, tenant) not in self.sharing.members:
            self.sharing.members.add((group, tenant))
            self.moved(generation)

    def departed(self, tenant: str, group: str, generation: int) -> None:
        """A tenant is no member now: the group's key and its publications are called otherwise for all others."""
        if (group, tenant) in self.sharing.members:
            self.sharing.members.remove((group, tenant))
            self.sharing.left[group] += 1
            self.moved(generation)
            for publication in self.sharing.publications.values():
                publication.generation = generation if publication.domain == group else publication.generation
