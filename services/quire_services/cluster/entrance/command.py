"""``quire entrance``: one address in front of several stacks, in the foreground. It needs no cluster."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvloop

from quire_services.gateway.http.server import BindError
from quire_services.process import logs
from quire_services.process.flags import Parser
from quire_services.process.reason import StartError, report_reason

from .entrance import DEFAULT_ROUTER, PROGRAMS, Entrance
from .members import EntranceNode
from .node_list import NodeListError, distinct, node_of_url, parse_node_list, watch_node_list

log = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = _parser()
    asked = parser.parse_args(argv)
    logs.configure("entrance")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each question would drown the rest
    try:
        nodes = distinct([node_of_url(url) for url in asked.node])
        if asked.nodes_file:
            if nodes:
                parser.error("--node and --nodes-file: choose one")
            nodes = parse_node_list(Path(asked.nodes_file).read_text())
        elif not nodes:
            parser.error("no nodes: name each with --node http://HOST:PORT, or all in --nodes-file")
    except (NodeListError, OSError) as error:
        parser.error(str(error))
    try:
        return uvloop.run(_run(asked, nodes))
    except (StartError, BindError) as error:
        log.error("cannot_start", reason=str(error))
        report_reason(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quire entrance", description="one address in front of several stacks")
    parser.add_argument("--node", action="append", default=[], metavar="URL", help="a node's gateway; once for each")
    parser.add_argument("--nodes-file", metavar="FILE", help="JSON list of nodes, read again when it changes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="0: one that is free (default: 8080)")
    parser.add_argument(
        "--router", choices=list(PROGRAMS), default=DEFAULT_ROUTER, help=f"what chooses (default: {DEFAULT_ROUTER})"
    )
    parser.add_argument(
        "--router-program", default="", metavar="FILE", help="its program; for dynamo the Python that has it"
    )
    parser.add_argument(
        "--router-log", default="entrance-router.log", metavar="FILE", help="what it says (default: %(default)s)"
    )
    parser.add_argument("--drain-s", type=float, default=30.0, help="seconds for what is open at a stop (default: 30)")
    return parser


async def _run(asked: argparse.Namespace, nodes: list[EntranceNode]) -> int:
    entrance = Entrance(
        asked.host,
        asked.port,
        nodes,
        router=asked.router,
        program=asked.router_program,
        log_file=Path(asked.router_log).absolute(),
        drain_s=asked.drain_s,
    )
    loop, work = asyncio.get_running_loop(), asyncio.ensure_future(entrance.run())

    def stop() -> None:
        entrance.stop()
        if not entrance.listens:
            work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    watch = None
    if asked.nodes_file:
        watch = asyncio.ensure_future(watch_node_list(Path(asked.nodes_file), entrance.declare))
    try:
        await work
    except asyncio.CancelledError:
        return 130
    finally:
        if watch is not None:
            watch.cancel()
    return 0


if __name__ == "__main__":
    sys.exit(main())
