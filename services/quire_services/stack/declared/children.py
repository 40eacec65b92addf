"""A stack that follows the declarations of a cluster (``serve.declarations``): what that changes in it.

The gateway's keys are a file of the follower's, which lies with the kvstore's state and goes where that goes; its admin
API is on, because the follower speaks to that. A process that ends, the first look, has written the file before a
gateway starts. Both processes are known by their command lines alone.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

from quire_services.config.declared_names import DECLARED_DIR, KEYS_FILE
from quire_services.config.process_table import ProcessEntry, ProcessTable
from quire_services.config.settings import Config
from quire_services.gateway.admin.token import TOKEN_FILE
from quire_services.process.port_check import ADMIN_HOST, free_local_port
from quire_services.process.subcommand import command_line
from quire_services.stack.child import Child
from quire_services.stack.fingerprint import fingerprint
from quire_services.stack.state_tree import STATE

FOLLOWER = "follower"


def refusal(config: Config) -> str:
    """Why this configuration cannot follow declarations; empty if it can."""
    if not config.serve.declarations or not (config.tenants or config.gateway.keys_file):
        return ""
    where = f"gateway.keys_file ({config.gateway.keys_file})" if config.gateway.keys_file else "[[tenants]]"
    return f"serve.declarations: tenants and keys come from {config.serve.declarations}: leave {where} out"


def with_declarations(config: Config, run_dir: Path, running: ProcessEntry | None) -> Config:
    """The configuration with what a follower needs, once the API has its port: a file of keys, a name, an admin port,
    which is that of our running gateway or one that is free."""
    if not config.serve.declarations:
        return config
    gateway, serve = config.gateway, config.serve
    held = running.option("admin-port") if running else ""
    port = gateway.admin_port or (int(held) if held.isdecimal() else 0) or free_local_port()
    name = serve.node_name or f"{socket.gethostname()}-{gateway.port}"
    keys = str(_directory(config, run_dir) / KEYS_FILE)
    return replace(
        config, gateway=replace(gateway, admin_port=port, keys_file=keys), serve=replace(serve, node_name=name)
    )


def declaration_children(config: Config, run_dir: Path, table: ProcessTable | None) -> tuple[Child, Child] | None:
    """The process that looks first, and the one that follows; None without declarations."""
    if not config.serve.declarations:
        return None
    common = [f"--store={config.serve.declarations}", f"--state={_directory(config, run_dir)}"]
    first = Child("first-look", command_line("declare", "first-look", *common), keep=False)
    token = config.gateway.admin_token_file or run_dir / TOKEN_FILE
    node = [f"--node={config.serve.node_name}", f"--admin-token-file={token}"]
    node += [f"--admin-url=http://{ADMIN_HOST}:{config.gateway.admin_port}"]
    follower = Child(FOLLOWER, command_line("declare", "follow", *common, *node), table=table)
    follower.settings = fingerprint(follower.argv)
    return first, follower


def _directory(config: Config, run_dir: Path) -> Path:
    return Path(config.kvstore.state_dir or run_dir / STATE).absolute() / DECLARED_DIR
