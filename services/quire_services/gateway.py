"""Gateway process: the OpenAI API on one side, the engines on the other.

Life: read the tokenizer, listen for engines, then for clients - an open port means it is ready to answer, with 503
while no engine is. First signal: no new connections, running requests have ``drain_s`` seconds, what is left then
ends with an error and is aborted at its engine. Second signal: exit at once. Nothing but JSON log lines is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import structlog
import uvicorn
import uvloop

from . import flags, logs, settings
from .chat_template import LoadError, PromptEncoder, log_like_everyone, without_torch
from .engines import Engines
from .errors_http import unavailable
from .generate import Gateway
from .http_app import make_app
from .http_edge import Edge
from .keys import Keys
from .link_server import LinkServer, SocketTaken

log = structlog.get_logger()


class StartError(Exception):
    """The gateway cannot start; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway; the exit status."""
    config = parse(argv)
    logs.configure("gateway")
    without_torch()
    log_like_everyone()
    try:
        return uvloop.run(_run(config))
    except (StartError, LoadError, SocketTaken) as error:
        log.error("cannot_start", reason=str(error))
        return 1
    except KeyboardInterrupt:  # before the server took the signals over
        return 130


def parse(argv: Sequence[str] | None) -> settings.Config:
    """Flags, environment and file as configuration; a mistake ends the process with 2."""
    parser = flags.Parser(prog="quire gateway", description="the OpenAI-compatible HTTP side of the stack")
    add_flags(parser)
    return flags.read(parser, parser.parse_args(argv))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The gateway's flags."""
    own = (field.name for field in fields(settings.Gateway))
    flags.add(parser, "serve", "gateway", only=("model", "run_dir", *own))


async def _run(config: settings.Config) -> int:
    with contextlib.ExitStack() as unused:
        listening = unused.enter_context(_bind(config))
        gateway = _gateway(config)
        link = LinkServer(gateway.engines, config.run_dir / "gateway.sock")
        try:
            await link.start()
        except OSError as error:
            raise StartError(f"cannot listen for engines in {config.run_dir}: {error}") from None
        unused.pop_all()  # the server closes the port from here on
    watch = asyncio.ensure_future(gateway.keys.watch())
    try:
        await _serve(gateway, listening, config.gateway.drain_s)
    finally:
        watch.cancel()
        await link.stop()
        gateway.encoding.shutdown(wait=False, cancel_futures=True)
    log.info("stopped")
    return 0


def _gateway(config: settings.Config) -> Gateway:
    if not config.serve.model:
        raise StartError("say which model: --model DIR")
    model = Path(config.serve.model).absolute()
    keys = Keys(config.tenants, config.file)
    if keys.open and not _loopback(config.gateway.host):
        raise StartError(
            f"--host {config.gateway.host} can be reached by others, but no API key is configured: "
            "add [[tenants]] with keys to the configuration file, or listen on 127.0.0.1"
        )
    name = config.gateway.served_model_name or model.name
    return Gateway(name, PromptEncoder.load(model), Engines(config.gateway.max_queue), keys)


def _bind(config: settings.Config) -> socket.socket:
    """The bound socket of the HTTP port; it does not listen yet."""
    host, port = config.gateway.host, config.gateway.port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listening


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: ours drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(gateway: Gateway, listening: socket.socket, drain_s: float) -> None:
    """Serve until a signal says stop, then drain."""
    config = uvicorn.Config(
        Edge(make_app(gateway), gateway),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(drain_s) + 2,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if gateway.engines.draining:
            os._exit(1)  # the second signal: somebody does not want to wait
        log.info("draining", requests=len(gateway.engines.calls()), seconds=drain_s)
        gateway.engines.draining = True
        server.should_exit = True
        loop.call_later(drain_s, _give_up, gateway)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    log.info("listening", host=listening.getsockname()[0], port=listening.getsockname()[1], model=gateway.model)
    await server.serve(sockets=[listening])


def _give_up(gateway: Gateway) -> None:
    """End what the drain did not wait for."""
    for call in gateway.engines.calls():
        call.fail(unavailable("the gateway is shutting down"))


if __name__ == "__main__":
    sys.exit(main())
