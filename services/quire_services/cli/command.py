"""The ``quire`` command: one name, one module a subcommand, imported only when it is asked for.

Imports are lazy because a client-only install has neither torch nor an HTTP server, and because ``quire status``
must answer faster than torch loads. Every subcommand's module has ``main(argv) -> exit code``.
Exit codes: 0 done, 1 failed, 2 a usage error, which one line names.
"""

from __future__ import annotations

import importlib
import sys

from quire_proto import __version__
from quire_services.process.standard_streams import UNWRITABLE, discard_stream, open_standard_streams, print_line

COMMANDS = {
    "serve": ("quire_services.stack.serve", "run the whole stack on this host: kvstore, engines, gateway"),
    "stop": ("quire_services.stack.stop", "stop the stack of a run directory, with or without its supervisor"),
    "rollout": ("quire_services.stack.rollout", "replace all engines of a running stack, one at a time"),
    "cluster": ("quire_services.cluster.command", "run one stack a machine, on machines that Ray has"),
    "status": ("quire_services.cli.status", "print the kvstore's counters"),
    "doctor": ("quire_services.doctor.command", "find what is wrong on this host, and say what to do"),
    "top": ("quire_services.cli.views.top", "show the pool as a live picture, with tenants, engines and rates"),
    "config": ("quire_services.cli.views.config_show", "show every setting, its value, and where that comes from"),
    "tenant": ("quire_services.cli.tenant", "set and list tenants' quotas on a running stack"),
    "group": ("quire_services.cli.group", "declare which tenants share what is published to a group"),
    "declare": (
        "quire_services.cluster.declarations.command",
        "say what is true on every node of a cluster: tenants, keys, quotas, groups, published prompts",
    ),
    "prefix": ("quire_services.cli.prefix", "publish system prompts on a running stack, list them, take them back"),
    "engines": ("quire_services.cli.engines.engine_table", "list the engines of a running stack, and what each does"),
    "drain": ("quire_services.cli.engines.drain", "give an engine nothing new, and have others go on with what it has"),
    "undrain": ("quire_services.cli.engines.undrain", "give a drained engine work again"),
    "kvstore": ("quire_services.daemons.kvstored", "run one kvstore: the process that owns the pool"),
    "engine": ("quire_services.daemons.engined", "run one engine: a model over the shared pool"),
    "gateway": ("quire_services.daemons.gateway", "run the gateway: the OpenAI HTTP API"),
    "entrance": (
        "quire_services.cluster.entrance.command",
        "run one address in front of several stacks, with a router",
    ),
    "prepare": ("quire_services.cli.prepare", "write what the kvstore must know of a model and its published prompts"),
    "fetch": ("quire_services.cli.models.fetch", "fetch a model from the Hugging Face hub into its cache on this host"),
    "calibrate": ("quire_services.cli.models.calibrate", "find scales for keys and values that are stored as fp8"),
    "bench": ("quire_services.cli.bench", "measure this tree, alone or against a peer (source tree only)"),
}
# What is run before the module of a command is imported.
BEFORE_IMPORT = {"engine": "quire_services.daemons.engine_start"}
# What an absent module means to the person who typed the command.
EXTRAS = {
    "torch": "engine",
    "transformers": "engine",
    "huggingface_hub": "engine",
    "fastapi": "gateway",
    "uvicorn": "gateway",
    "httpx": "gateway",
    "numpy": "kvstore",
    "rich": "top",
    "ray": "ray",
    "yaml": "ray",
    "valkey": "cluster",
    "pydantic": "cluster",
}


def usage() -> str:
    """The help page."""
    lines = [f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: quire COMMAND [options]",
            "",
            "KV-cache memory that outlives the engines using it.",
            "",
            *lines,
            "",
            "quire COMMAND --help shows a command's options. Every option can also be set in a TOML file (--config)",
            "or in the environment: --block-size is block_size in [kvstore] and QUIRE_KVSTORE_BLOCK_SIZE.",
        ]
    )


def _say(text: str, *, error: bool = False) -> None:
    if error:
        print_line(text, sys.stderr)
    else:
        sys.stdout.write(text + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    open_standard_streams()
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        discard_stream(sys.stdout)
        _say(f"quire: cannot print the answer: {error.strerror}", error=True)
        return 1
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _say(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version", "version"):
        _say(f"quire {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        _say(f"quire: {name!r} is not a command; there are {', '.join(COMMANDS)}", error=True)
        return 2
    try:
        if name in BEFORE_IMPORT:
            importlib.import_module(BEFORE_IMPORT[name]).before_import(rest)
        module = importlib.import_module(COMMANDS[name][0])
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0], "all")
        _say(f"quire {name}: {error}; install it with: pip install 'quire-kv[{extra}]'", error=True)
        return 1
    code: int | None = module.main(rest)
    return code or 0


if __name__ == "__main__":
    raise SystemExit(main())
