"""The screen that a start ends with: what has been started, from what each process found out for itself, and a first
command to try.

Plain lines, in a log as on a terminal. The command works as it stands; where keys are needed it takes one out of a
variable, so that none is printed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quire_engine.checkpoint.weights.float16 import CHOSEN
from quire_services.config.input_files import one_line
from quire_services.config.settings import Config
from quire_services.process.port_check import ANY_ADDRESS, netloc

GIB = 1 << 30
KEY_VARIABLE = "QUIRE_API_KEY"
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StartFacts:
    """What the processes of a stack have reported (``start_report``); of what is missing nothing is said."""

    kvstore: Facts = field(default_factory=dict)
    gateway: Facts = field(default_factory=dict)
    engines: Sequence[tuple[str, Facts]] = ()


def start_screen(config: Config, found: StartFacts) -> list[str]:
    """The lines of the screen."""
    engine: Facts = found.engines[0][1] if found.engines else {}
    rows = {
        "model": _joined(found.gateway.get("model"), engine.get("computes"), _context(engine)),
        "weights": _weights(engine),
        "engines": _joined(", ".join(name for name, _ in found.engines), _threads(engine)),
        "pool": _pool(found.kvstore),
        "token": engine.get("token_cost", ""),
        "arena": _joined(found.kvstore.get("arena"), _arena_reason(config, found.kvstore)),
        "kernels": _kernels(found.engines),
        "preload": engine.get("preload", ""),
    }
    lines = [f"  {title:<9}{one_line(text)}" for title, text in rows.items() if text]
    return ["", *lines, "", *_first_command(config, found.gateway), ""]


def _joined(*parts: object) -> str:
    return ", ".join(str(part) for part in parts if part)


def _context(engine: Facts) -> str:
    return f"sequences of up to {engine['max_model_len']:,} tokens" if engine.get("max_model_len") else ""


def _weights(engine: Facts) -> str:
    """What they take, and what they would take in the checkpoint's own type."""
    if not engine.get("weight_bytes"):
        return ""
    size, dtype = engine["weight_bytes"], engine["dtype"]
    own = engine.get("quantised") or _of_checkpoint(dtype, engine["checkpoint_dtype"], engine.get("auto_dtype"))
    where = "once for all engines" if engine.get("weights_shared") else "in each engine"
    why = f"; not shared: {engine['weights_private']}" if engine.get("weights_private") else ""
    return f"{size / GIB:.2f} GiB ({size:,} bytes) {where}; {dtype}, {own}{why}"


def _of_checkpoint(dtype: str, stored: str, auto: str | None) -> str:
    if dtype == stored:
        return "as in the checkpoint"
    if auto in (None, stored):
        return f"the checkpoint is in {stored}: --dtype auto takes that"
    return CHOSEN if dtype == auto else f"the checkpoint is in {stored}: --dtype auto takes {auto} here"


def _threads(engine: Facts) -> str:
    threads = engine.get("threads", 0)
    return f"{threads} {'thread' if threads == 1 else 'threads'} each" if threads else ""


def _pool(kvstore: Facts) -> str:
    if not kvstore.get("blocks"):
        return ""
    blocks, size = kvstore["blocks"], kvstore["bytes"]
    tokens = blocks * kvstore["block_size"]
    return f"{blocks:,} blocks, {tokens:,} tokens, {size / GIB:.2f} GiB ({size:,} bytes); {kvstore['sized_by']}"


def _arena_reason(config: Config, kvstore: Facts) -> str:
    """Why it lies where it lies; the kvstore does not know that its setting follows from the engines'."""
    follows = config.kvstore.arena == "auto" and kvstore.get("as_configured")
    return "because engines compute on the CPU (engine.attention)" if follows else str(kvstore.get("arena_reason", ""))


def _kernels(engines: Sequence[tuple[str, Facts]]) -> str:
    """Of all engines if they agree, else of each."""
    kinds = {str(facts.get("kernels", "")): name for name, facts in engines}
    if len(kinds) < 2:
        return next(iter(kinds), "")
    return "; ".join(f"{name}: {facts.get('kernels', '')}" for name, facts in engines)


def _first_command(config: Config, gateway: Facts) -> list[str]:
    url = f"http://{netloc(ANY_ADDRESS.get(config.gateway.host, config.gateway.host), config.gateway.port)}/v1"
    if not gateway.get("model"):
        return [f"  try it: curl {url}/models"]
    body: dict[str, Any] = {"model": gateway["model"], "max_tokens": 32}
    if gateway.get("chats"):
        path, body["messages"] = "chat/completions", [{"role": "user", "content": "Say hello."}]
    else:  # a model without a chat template
        path, body["prompt"] = "completions", "Once upon a time"
    keyed = config.tenants or config.gateway.keys_file
    keys = [f'-H "authorization: Bearer ${KEY_VARIABLE}"'] if keyed else []
    command = [
        "curl",
        f"{url}/{path}",
        *keys,
        "-H 'content-type: application/json'",
        "-d",
        shlex.quote(json.dumps(body)),
    ]
    names = ", ".join(tenant.name for tenant in config.tenants[:3])
    whose = f" ({names}{', ...' if len(config.tenants) > 3 else ''})" if names else ""
    needs = f", with a key of a tenant{whose} in {KEY_VARIABLE}"
    return [f"  try it{needs if keys else ''}:", f"  {' '.join(command)}"]
