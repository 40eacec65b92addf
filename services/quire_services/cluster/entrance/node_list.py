"""Node list: which nodes an entrance has, from its command line, or from a file that it reads again when it changes.

    {"nodes": [{"name": "a", "url": "http://10.0.0.5:8000", "state": "serving"}, ...]}

``state`` is ``serving``, if it is left out, or ``draining``. A file that cannot be read, or says something else,
changes nothing: the list that was read last holds, and the log says why.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import structlog

from .members import EntranceNode, NodeState

FILE_LOOK_S = 0.5
log = structlog.get_logger()


class NodeListError(ValueError):
    """A list that is wrong; the message says how."""


def node_of_url(url: str, name: str = "", state: str = "serving") -> EntranceNode:
    """A node by the URL of its gateway, and named after it unless it has a name. Raises NodeListError."""
    parts = urlsplit(url)
    try:
        fits = parts.scheme == "http" and parts.hostname and parts.path in ("", "/") and not parts.query
        port = parts.port
    except ValueError:
        fits, port = False, None
    if not fits:
        raise NodeListError(f"{url!r} is no node: it must be http://HOST:PORT, without a path")
    if state not in get_args(NodeState):
        raise NodeListError(f"{state!r} is no state of a node: serving or draining")
    netloc = parts.netloc if port else f"{parts.netloc}:80"
    return EntranceNode(name or netloc, f"http://{netloc}", state)  # type: ignore[arg-type]


def parse_node_list(text: str) -> list[EntranceNode]:
    """The nodes of such a file. Raises NodeListError."""
    try:
        listed: Any = json.loads(text)["nodes"]
        nodes = [node_of_url(one["url"], one.get("name", ""), one.get("state", "serving")) for one in listed]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise NodeListError(f'no list of nodes ({error!r}): {{"nodes": [{{"url": ...}}]}} is one') from None
    return distinct(nodes)


def distinct(nodes: list[EntranceNode]) -> list[EntranceNode]:
    """The list, if no two have a name or a URL in common. Raises NodeListError."""
    for seen in ([node.name for node in nodes], [node.url for node in nodes]):
        if twice := {one for one in seen if seen.count(one) > 1}:
            raise NodeListError(f"{', '.join(sorted(twice))}: there twice")
    return nodes


async def watch_node_list(file: Path, declare: Callable[[Sequence[EntranceNode]], None]) -> None:
    """Declare the file's nodes whenever it changes, for ever."""
    before = ""
    while True:
        try:
            text = await asyncio.to_thread(file.read_text)
            if text != before:
                before = text
                declare(parse_node_list(text))
        except (OSError, ValueError) as error:
            log.warning("node_list", file=str(file), reason=str(error))
        await asyncio.sleep(FILE_LOOK_S)
