"""Ports: whether the addresses that the gateway listens on are free, or its own."""

from __future__ import annotations

import errno

from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.gateway_answers import is_own_gateway
from quire_services.doctor.scene import Scene
from quire_services.process.port_check import ADMIN_HOST, bound_socket, netloc


def check_ports_free(scene: Scene) -> Findings:
    """Each is free, or this stack's gateway has it."""
    gateway = scene.config.gateway
    own = is_own_gateway(scene)
    yield from _port("gateway.port", gateway.host, gateway.port, own)
    if gateway.admin_port:
        yield from _port("gateway.admin_port", ADMIN_HOST, gateway.admin_port, own)


def _port(setting: str, host: str, port: int, own: bool) -> Findings:
    address = netloc(host, port)
    try:
        with bound_socket(host, port) as probe:
            probe.listen(1)
        yield fact("ports", f"{address} is free", setting)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", 0) != errno.EADDRINUSE:
            yield problem(
                "port-refused",
                f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}",
                "choose a port above 1023 (or give CAP_NET_BIND_SERVICE), and an address of this machine",
                setting,
            )
        elif own:
            yield fact("ports", f"{address} is this stack's", setting)
        else:
            flag = setting.partition(".")[2].replace("_", "-")
            yield problem(
                "port-taken",
                f"another process listens on {address}",
                f"end it (ss -ltnp 'sport = :{port}' names it), or choose another port with --{flag}",
                setting,
            )
