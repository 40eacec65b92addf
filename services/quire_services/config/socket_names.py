"""Names of the sockets in a run directory: the kvstore's three, the gateway's for engines, the event stream's two, and
the one at which a new supervisor hands its stderr to what it takes over."""

from __future__ import annotations

from quire_proto.client.attach_socket import ATTACH_SOCKET
from quire_proto.client.socket import KVSTORE_SOCKET
from quire_proto.weights.packets import WEIGHTS_SOCKET

GATEWAY_SOCKET = "gateway.sock"
EVENTS_SOCKET, REPLAY_SOCKET = "events.sock", "events-replay.sock"
LOG_SOCKET = "logs.sock"
SOCKETS = (KVSTORE_SOCKET, ATTACH_SOCKET, WEIGHTS_SOCKET, GATEWAY_SOCKET, EVENTS_SOCKET, REPLAY_SOCKET, LOG_SOCKET)
