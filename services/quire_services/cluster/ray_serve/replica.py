"""Replica: one stack of a Serve deployment, supervised as a node's is (``NodeStack``), and the way to its gateway.

    Serve says                     here
    start a replica                the stack is started; the replica is ready when the stack serves
    is it healthy?                 yes while the stack serves, and while it may come back by itself
    stop the replica               Serve waits for its open requests; then the stack ends in order
    the replica's process is gone  the kernel sends the stack SIGTERM

A stack mends itself: an engine, a gateway, a whole supervisor that dies is started again, and what is cached stays. So
one that does not serve is given as long as two starts of it take before Serve hears that it is broken.
"""

from __future__ import annotations

import asyncio
import logging
import time

from quire_services.cluster.node_stack import STACK_ENDED, NodeStack
from quire_services.cluster.nodes import SERVING
from quire_services.cluster.stack_order import StackOrder

from .replica_app import ReplicaApp

STACK_LOOK_S = 0.25
LEAST_PATIENCE_S = 30.0
STARTS = 2  # how many starts a stack that serves no more has time for
END_SPARE_S = 20.0  # for what ends after the gateway has drained


class StackReplica:
    """One replica. Args: ``order``: what its stack runs."""

    def __init__(self, order: StackOrder) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each question would drown the rest
        self._name, self._drain_s = replica_name(), order.drain_s
        self._patience_s, self._served = LEAST_PATIENCE_S, time.monotonic()
        self._stack = NodeStack(self._name, order, wanted=1, address="")

    async def __serve_build_asgi_app__(self) -> ReplicaApp:
        """What answers requests, when the stack serves; asked for once. Raises RuntimeError if it does not start."""
        began = time.monotonic()
        while (report := await asyncio.to_thread(self._stack.report)).state != SERVING:
            if report.state in STACK_ENDED:
                raise RuntimeError(f"the stack does not start: {report.reason or report.state}")
            await asyncio.sleep(STACK_LOOK_S)
        self._served = time.monotonic()
        self._patience_s = max(LEAST_PATIENCE_S, STARTS * (self._served - began))
        return ReplicaApp(self._name, self._stack.report)

    async def check_health(self) -> None:
        """Raise RuntimeError if the stack is broken."""
        report = await asyncio.to_thread(self._stack.report)
        silent = time.monotonic() - self._served
        if report.state == SERVING:
            self._served = time.monotonic()
        elif report.state in STACK_ENDED:
            raise RuntimeError(f"the stack has ended: {report.reason or report.state}")
        elif silent > self._patience_s:
            raise RuntimeError(f"the stack does not serve, for {silent:.0f} seconds now")

    def __del__(self) -> None:
        """Drain the stack, and wait for its end: Serve calls this when no request is open, and kills afterwards."""
        stack: NodeStack | None = getattr(self, "_stack", None)
        if stack is None:  # it was refused before it began
            return
        stack.drain()
        until = time.monotonic() + self._drain_s + END_SPARE_S
        while stack.report().state not in STACK_ENDED and time.monotonic() < until:
            time.sleep(STACK_LOOK_S)


def replica_name() -> str:
    """What Serve calls this replica, as a node's name."""
    from ray import serve

    return f"replica-{serve.get_replica_context().replica_id.unique_id}"
