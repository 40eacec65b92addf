"""Recent preambles: what the last chats of each tenant began with, for an operator who publishes one by request id.

System messages, tools and variables of the template are kept, never what is said after them; in this process's memory
alone, so many a tenant and no more bytes than ``MAX_TENANT_BYTES``. The operator sets how many, none by default.

Invariant: a preamble is found under its own tenant only. Request ids are the clients' choice and prove nothing.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict

MAX_TENANT_BYTES = 4 << 20


class RecentPreambles:
    """Preambles by tenant and request id.

    Args:
        most: kept of each tenant; 0: none.
        most_bytes: of each tenant's.
    """

    def __init__(self, most: int, most_bytes: int = MAX_TENANT_BYTES) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._tenants: defaultdict[str, OrderedDict[str, str]] = defaultdict(OrderedDict)

    def keep(self, tenant: str, request_id: str, preamble: str) -> None:
        """Keep a preamble (``packed_preamble``), and give up the oldest beyond the bounds."""
        if not self.most or not preamble:
            return
        kept = self._tenants[tenant]
        kept.pop(request_id, None)
        kept[request_id] = preamble
        size = sum(map(len, kept.values()))  # of 1,024 at most
        while len(kept) > self.most or size > self._most_bytes:
            size -= len(kept.popitem(last=False)[1])

    def get(self, tenant: str, request_id: str) -> str | None:
        """The preamble of a tenant's request, if it is still kept."""
        return self._tenants[tenant].get(request_id) if tenant in self._tenants else None
