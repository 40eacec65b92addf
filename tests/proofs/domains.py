"""Domains: in which share domain content is written, and which domains a tenant may read.

Tokens that a publication begins with may have been written for its domain or by the tenant itself (a fork may leave the
publication before its end); everything else by the tenant alone. Of a group's content a tenant may read what it came to
hold while it was a member, so here it may if it ever was one: that a former member gets no more is not told by content.
"""

from __future__ import annotations

from itertools import takewhile

from tests.support.stamped_arena import PUBLIC


class Domains:
    """What was ever published, and which tenant was ever a member of which group. Both outlive a boot of the kvstore.

    A publication's domain is named in parentheses, so that no tenant is called like it.
    """

    def __init__(self, public: list[int]) -> None:
        """``public``: the prompt that is published from the start."""
        self._prompts = [(PUBLIC, public)]
        self._members: set[tuple[str, str]] = set()

    def share(self, domain: str, tokens: list[int]) -> None:
        """A prompt may be published in a domain from now on."""
        self._prompts.append((f"({domain})", tokens))

    def entitle(self, group: str, tenant: str) -> None:
        """A tenant may read what is published in a group from now on."""
        self._members.add((f"({group})", tenant))

    def shared(self, domain: str, tokens: list[int]) -> int:
        """Leading tokens that belong to a publication of the domain that ``tokens`` begin with."""
        begun = (len(p) for where, p in self._prompts if where == domain and tokens[: len(p)] == p)
        return max(begun, default=0)

    def of(self, tenant: str) -> set[str]:
        """The domains that a tenant may read."""
        return {tenant, PUBLIC} | {domain for domain, member in self._members if member == tenant}

    def readable(self, tenant: str, tokens: list[int]) -> dict[str, int]:
        """By domain, up to where these tokens of a tenant may have been written in it."""
        entitled, readable = self.of(tenant), {tenant: len(tokens)}
        for domain, prompt in self._prompts:
            if domain in entitled:
                common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, tokens, strict=False)))
                readable[domain] = max(readable.get(domain, 0), common)
        return readable
