"""Response store: what is kept of responses, for requests that go on from them and for clients that ask.

Kept in this process and nowhere else: a gateway that starts again knows none. Each response is kept with the items of
its own input and output and the name of the one before it, so a conversation is kept once, however long it goes on.
What is kept is a tenant's own, and bounded: in number (a tenant's least recently used goes first), in bytes over all
tenants (that of the tenant that has most goes first), and in time since it was last used. A request that goes on from a
response uses all those before it, too.

A response is put here when its request has been read, and completed when it is answered, so that what open requests
hold counts, too; until then it cannot be seen.

Invariant: ``_sizes`` has the sum of the sizes of a tenant's entries.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quire_services.gateway.http.errors import ApiError

SWEEP_S = 30.0
ENTRY_BYTES = 2048  # that an entry takes beside what it says


@dataclass(slots=True)
class StoredResponse:
    """One response.

    Attributes:
        id: its name.
        input: items of its request, as JSON, an item a line.
        many: items of request and answer.
        previous: the response that it goes on from, if there is one.
        used: when it was last used.
        output: items of its answer, by id.
        whole: all of it, as JSON; empty while it is not complete.
    """

    id: str
    input: bytes
    many: int
    previous: str
    used: float
    output: Mapping[str, bytes] = field(default_factory=dict)
    whole: bytes = b""

    def size(self) -> int:
        """Bytes that it takes."""
        return ENTRY_BYTES + len(self.input) + sum(map(len, self.output.values())) + len(self.whole)

    def texts(self) -> list[bytes]:
        """All its items, as JSON, an item a line."""
        return [text for text in (self.input, *self.output.values()) if text]


class ResponseStore:
    """Responses of all tenants.

    Args:
        most: responses of a tenant; 0: none are kept.
        most_bytes: of all.
        kept_s: seconds after the last use.
        now: seconds of a clock that only goes forward.
    """

    def __init__(
        self, most: int = 0, most_bytes: int = 0, kept_s: float = 0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._most_bytes, self._kept_s, self._now = most, most_bytes, kept_s, now
        self._tenants: dict[str, OrderedDict[str, StoredResponse]] = {}  # the least recently used first
        self._items: dict[str, dict[str, bytes]] = {}  # of a tenant's answers, by id: what clients refer to
        self._sizes: Counter[str] = Counter()

    def takes(self, size: int) -> bool:
        """Whether a request with an input of so many bytes can be kept."""
        return bool(self._most) and ENTRY_BYTES + size <= self._most_bytes

    def open(self, tenant: str, identity: str, items: bytes, many: int, previous: str) -> None:
        """Put a request here that is being answered: so many items, one a line."""
        entry = StoredResponse(identity, items, many, previous, self._now())
        entries = self._tenants.setdefault(tenant, OrderedDict())
        entries[identity] = entry
        if len(entries) > self._most:
            self._drop(tenant, next(iter(entries)))
        self._grow(tenant, entry.size())

    def complete(self, tenant: str, identity: str, whole: bytes, output: Mapping[str, bytes]) -> None:
        """Complete it with its answer and the items of that, if it is still here."""
        entry = self._of(tenant).get(identity)
        if entry is None:
            return
        before = entry.size()
        entry.whole, entry.output = whole, output
        entry.many += len(output)
        self._items.setdefault(tenant, {}).update(output)
        self._use(tenant, entry)
        self._grow(tenant, entry.size() - before)

    def get(self, tenant: str, identity: str) -> StoredResponse:
        """A response of a tenant. Raises ApiError 404."""
        entry = self._find(tenant, identity)
        if entry is None:
            raise _not_kept(f"there is no response {identity[:80]!r} here", "response_id", "response_not_found")
        self._use(tenant, entry)
        return entry

    def delete(self, tenant: str, identity: str) -> None:
        """Forget a response. Raises ApiError 404."""
        self._drop(tenant, self.get(tenant, identity).id)

    def conversation(self, tenant: str, identity: str) -> list[StoredResponse]:
        """A response and all before it, the first one first. Raises ApiError 404."""
        found: list[StoredResponse] = []
        ahead = identity
        while ahead:
            entry = self._find(tenant, ahead)
            if entry is None:
                before = f", which {identity[:80]!r} goes on from," if found else ""
                reason = f"the response {ahead[:80]!r}{before} is not kept here (any more)"
                raise _not_kept(reason, "previous_response_id", "previous_response_not_found")
            found.append(entry)
            ahead = entry.previous
        found.reverse()
        for entry in found:
            self._use(tenant, entry)
        return found

    def input_texts(self, tenant: str, identity: str) -> list[bytes]:
        """All items before a response's answer, as JSON, an item a line. Raises ApiError 404."""
        self.get(tenant, identity)
        *before, last = self.conversation(tenant, identity)
        return [text for entry in before for text in entry.texts()] + ([last.input] if last.input else [])

    def item(self, tenant: str, identity: str) -> bytes:
        """An item of a tenant's answers. Raises ApiError 404."""
        found = self._items.get(tenant, {}).get(identity)
        if found is None:
            raise _not_kept(f"the item {identity[:80]!r} is not kept here (any more)", "input", "item_not_found")
        return found

    async def watch(self) -> None:
        """Forget what was not used for too long as time goes by, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Forget what was not used for too long."""
        oldest = self._now() - self._kept_s
        for tenant in list(self._tenants):
            while entries := self._tenants.get(tenant):
                first = next(iter(entries.values()))
                if first.used >= oldest:
                    break
                self._drop(tenant, first.id)

    def _of(self, tenant: str) -> OrderedDict[str, StoredResponse]:
        return self._tenants.get(tenant, OrderedDict())

    def _find(self, tenant: str, identity: str) -> StoredResponse | None:
        """A complete response that was not left for too long."""
        entry = self._of(tenant).get(identity)
        return entry if entry and entry.whole and entry.used >= self._now() - self._kept_s else None

    def _use(self, tenant: str, entry: StoredResponse) -> None:
        entry.used = self._now()
        self._tenants[tenant].move_to_end(entry.id)

    def _grow(self, tenant: str, by: int) -> None:
        self._sizes[tenant] += by
        while self._sizes.total() > self._most_bytes:
            (largest, _), *_ = self._sizes.most_common(1)
            self._drop(largest, next(iter(self._tenants[largest])))

    def _drop(self, tenant: str, identity: str) -> None:
        entry = self._tenants[tenant].pop(identity)
        self._sizes[tenant] -= entry.size()
        for name in entry.output:
            del self._items[tenant][name]
        if not self._tenants[tenant]:
            for by_tenant in (self._tenants, self._sizes, self._items):
                by_tenant.pop(tenant, None)


def _not_kept(message: str, param: str, code: str) -> ApiError:
    return ApiError(404, message, type="invalid_request_error", param=param, code=code)
