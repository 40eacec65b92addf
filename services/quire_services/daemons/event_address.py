"""Where the event stream may be bound, and what may be told there.

A PUB socket authenticates no subscriber: every process that reaches it can listen. In the run directory (``ipc``) those
are the stack user's own, which can read the pool itself; at a loopback address, those of every user of the host. So
what goes further is the operator's word: with CURVE, readers that have been given a key; without, a network that the
operator calls private, or none of our business. The tokens of all tenants are told over TCP on that word only.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from quire_kvstore.events.catalogue import ALL_TOKENS
from quire_kvstore.events.errors import EventsError
from quire_kvstore.events.publisher import Endpoints
from quire_services.config.settings import KvstoreSettings
from quire_services.config.socket_names import EVENTS_SOCKET, REPLAY_SOCKET

IPC = "ipc"
LOOPBACK, PRIVATE = "loopback", "private"  # of ``events_network``
_TCP = re.compile(r"tcp://(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9.]{7,15})):([0-9]{1,5})")


def endpoints(pool: KvstoreSettings, run_dir: Path) -> Endpoints:
    """Where both sockets are bound. Raises EventsError for a place that may not be."""
    if pool.events == IPC:
        return Endpoints(f"ipc://{run_dir / EVENTS_SOCKET}", f"ipc://{run_dir / REPLAY_SOCKET}")
    host, port = _tcp(pool.events)
    if not pool.events_curve:
        _check_open(pool, host)
    name = f"[{host}]" if host.version == 6 else str(host)
    return Endpoints(f"tcp://{name}:{port}", f"tcp://{name}:{port + 1}")


def _tcp(where: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    found = _TCP.fullmatch(where)
    try:
        if found is not None and 0 < int(found[3]) < 65535:
            return ipaddress.ip_address(found[1] or found[2]), int(found[3])
    except ValueError:
        pass
    raise EventsError(
        f"kvstore.events: {where[:80]!r} is neither ipc nor tcp://ADDRESS:PORT; the port after it is for replays"
    )


def _check_open(pool: KvstoreSettings, host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Raise EventsError for an address whose readers no key is asked of, unless the operator says so."""
    if isinstance(host, ipaddress.IPv6Address):
        host = host.ipv4_mapped or host  # 3.11 calls all of these private
    if pool.events_network == LOOPBACK:
        if not host.is_loopback:
            raise EventsError(
                f"kvstore.events: others reach {host}: give readers keys (events_curve), or say that they may all read"
                " (events_network: private)"
            )
        if pool.events_tokens == ALL_TOKENS:
            raise EventsError(
                "kvstore.events_tokens: every user of this host could read all prompts: set events to ipc, give readers"
                " keys (events_curve), or say that all of them may (events_network: private)"
            )
    elif pool.events_network == PRIVATE and (host.is_unspecified or not host.is_private):
        raise EventsError(
            f"kvstore.events: {host} is no address of a private network: give readers keys (events_curve), or say that"
            " anyone may read (events_network: any)"
        )
