"""Records in Valkey (or Redis, which speaks the same): a hash for a table, and its revision beside it.

A write is one script on the server, so that versions are compared and written in one step, by the server's clock. Both
keys have one hash tag and lie in one slot of a cluster. The address may hold a password: it is never in a message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from quire_services.cluster.declarations.records import (
    Change,
    Record,
    Records,
    StoreAway,
    StoreError,
    WriteConflict,
    key_of,
)

STORE_TIMEOUT_S = 2.0
_WRITE = """
for i = 1, #ARGV, 3 do
    local have = redis.call('HGET', KEYS[1], ARGV[i])
    local version = have and string.match(have, '^%d+') or '0'
    if version ~= ARGV[i + 1] then return {ARGV[i], version} end
end
local time = redis.call('TIME')
local version = tonumber(time[1]) * 1000000 + tonumber(time[2])
version = math.max(version, tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
local text = string.format('%.0f', version)
for i = 1, #ARGV, 3 do redis.call('HSET', KEYS[1], ARGV[i], text .. ' ' .. ARGV[i + 2]) end
redis.call('SET', KEYS[2], text)
return {'', text}
"""


class ValkeyStore:
    """A table on a server.

    Args:
        url: valkey://, valkeys://, redis://, rediss:// or unix://.
        cluster: name before all keys, for clusters that share a server.
        name: of the table.
    """

    def __init__(self, url: str, cluster: str, name: str = "declared", client: Any = None) -> None:
        import valkey  # an extra: nodes of one host do without

        self._url, self._cluster, self._failure = url, cluster, valkey.ValkeyError
        try:
            self._client: Any = client or valkey.Valkey.from_url(
                url, socket_timeout=STORE_TIMEOUT_S, socket_connect_timeout=STORE_TIMEOUT_S
            )
        except ValueError:
            raise StoreError("the store's address is none: valkey://HOST:PORT/0, say") from None
        self._records = f"{{quire:{cluster}}}:{name}"
        self._revision = f"{self._records}:revision"

    def revision(self) -> int:
        """The version of the last write."""
        try:
            return int(self._client.get(self._revision) or 0)
        except (self._failure, ValueError) as error:
            raise StoreAway(f"the store does not answer: {error}") from None

    def read(self) -> Records:
        """All records by key."""
        try:
            rows = self._client.hgetall(self._records)
            records = [_record(key.decode(), row) for key, row in rows.items()]
        except self._failure as error:
            raise StoreAway(f"the store does not answer: {error}") from None
        except ValueError as error:
            raise StoreError(f"{self._records} holds something else: {error}") from None
        return {record.key: record for record in records}

    def write(self, changes: Sequence[Change]) -> int:
        """All or nothing, on the server."""
        arguments = [
            part for change in changes for part in (change.key, str(change.expected), json.dumps(change.value))
        ]
        try:
            key, version = self._client.eval(_WRITE, 2, self._records, self._revision, *arguments)
        except self._failure as error:
            raise StoreAway(f"the store does not write: {error}") from None
        if key:
            expected = next(change.expected for change in changes if change.key == key.decode())
            raise WriteConflict(key.decode(), expected, int(version))
        return int(version)

    def table(self, name: str) -> ValkeyStore:
        """Another table, over the same connections."""
        return ValkeyStore(self._url, self._cluster, name, self._client)

    def close(self) -> None:
        """Close connections."""
        self._client.close()


def _record(key: str, row: bytes) -> Record:
    version, _, text = row.partition(b" ")
    value = json.loads(text)
    if value is not None and not isinstance(value, dict):
        raise ValueError(key)
    return Record(*key_of(key), int(version), value)
