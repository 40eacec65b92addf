"""Answers of what listens on the gateway's port, and whether that is the gateway of this stack.

Whatever answers there may be a stranger's: nothing of it is printed but what our own gateway says.
"""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

from quire_services.config.socket_names import GATEWAY_SOCKET
from quire_services.process.port_check import ANY_ADDRESS
from quire_services.stack.readiness import MAX_HEALTH_BYTES

from .scene import Scene

ANSWER_S = 2.0
_VERSION = re.compile(r'^quire_gateway_info\{[^}\n]*version="([^"\n]{1,64})"', re.MULTILINE)


def health_answer(scene: Scene) -> dict[str, Any] | None:
    """What a gateway says at /health; None if nothing answers there, or nothing like a gateway."""
    try:
        found = json.loads(_get(scene, "/health"))
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        return None
    return found if isinstance(found, dict) and {"status", "instance", "engines"} <= found.keys() else None


def version_answer(scene: Scene) -> str:
    """The version of the gateway, as its metrics have it; "" where these are not to be had."""
    try:
        found = _VERSION.search(_get(scene, "/metrics").decode(errors="replace"))
    except (OSError, http.client.HTTPException):
        return ""
    return found[1] if found else ""


def is_own_gateway(scene: Scene) -> bool:
    """Whether what has the port is the gateway of this run directory, if it answers or not."""
    if scene.process("gateway"):
        return True
    answer = health_answer(scene)
    if answer is None:
        return False
    # Without a supervisor there is no name to compare; then a gateway that listens in the run directory must do.
    return answer["instance"] == scene.instance if scene.instance else scene.listens(GATEWAY_SOCKET)


def _get(scene: Scene, path: str) -> bytes:
    gateway = scene.config.gateway
    connection = http.client.HTTPConnection(ANY_ADDRESS.get(gateway.host, gateway.host), gateway.port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(MAX_HEALTH_BYTES)
    finally:
        connection.close()
