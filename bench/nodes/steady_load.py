"""Steady load: clients of several tenants that stream chats again and again, and know what each must say.

Greedy answers of one model are the same on every node, so each client first hears its own undisturbed. Afterwards a
request is *whole*, if it came to its end with exactly these words; *lost*, if it had begun and ended as the entrance
says of a node that is gone (``docs/adr/0023-one-entrance.md``), all words up to there being right; or *failed*.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

from bench.load.agents import TENANTS
from bench.load.generator import Endpoint

WHOLE, LOST, FAILED = "whole", "lost", "failed"
REQUEST_S = 300.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """One request as its client saw it.

    Attributes:
        began, ended: monotonic.
        kind: whole, lost or failed; ``reason``: why it failed.
    """

    tenant: int
    began: float
    ended: float
    kind: str
    reason: str = ""


class SteadyLoad:
    """So many clients, from when the context is entered to its end.

    Args:
        system: the prompt that all begin with.
        tokens: of each answer.
        pause_s: what a client leaves between two requests, for a machine that has more to do than to serve them.

    Attributes:
        done: all requests that have ended, in the order of their ends.
    """

    def __init__(
        self, target: Endpoint, system: str, clients: int = TENANTS, tokens: int = 128, pause_s: float = 0.0
    ) -> None:
        self._target, self._clients, self._tokens, self._pause_s = target, clients, tokens, pause_s
        self._system, self._over = system, threading.Event()
        self._whole = dict[int, str]()
        self._threads = list[threading.Thread]()
        self.done: list[Streamed] = []

    def __enter__(self) -> Self:
        for client in range(self._clients):
            text, reason, _ = self._stream(client)
            if reason:
                raise AssertionError(f"client {client} cannot be answered undisturbed: {reason}")
            self._whole[client] = text
        for client in range(self._clients):
            self._threads.append(threading.Thread(target=self._again_and_again, args=(client,)))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def counts(self, since: float = 0.0) -> dict[str, int]:
        """How many were whole, lost and failed, of those that ended since then."""
        found = Counter(one.kind for one in self.done if one.ended >= since)
        return {kind: found[kind] for kind in (WHOLE, LOST, FAILED)}

    def failures(self) -> list[Streamed]:
        """What must not be."""
        return [one for one in self.done if one.kind == FAILED]

    def _again_and_again(self, client: int) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            text, reason, lost = self._stream(client)
            whole, kind = self._whole[client], WHOLE
            if lost and whole.startswith(text):
                kind, reason = LOST, ""
            elif reason or text != whole:
                kind, reason = FAILED, reason or f"other words: {text[:200]!r} in place of {whole[:200]!r}"
            self.done.append(Streamed(client % TENANTS, began, time.monotonic(), kind, reason))
            self._over.wait(self._pause_s)

    def _stream(self, client: int) -> tuple[str, str, bool]:
        """An answer's text, why it was not whole, and whether that was the loss of its node."""
        connection = http.client.HTTPConnection(self._target.host, self._target.port, timeout=REQUEST_S)
        text, ended, said = "", False, None
        try:
            headers = {
                "Authorization": f"Bearer {self._target.key(client % TENANTS)}",
                "Content-Type": "application/json",
            }
            connection.request("POST", "/v1/chat/completions", json.dumps(self._body(client)), headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                return "", f"{answer.status}: {answer.read(300).decode(errors='replace')}", False
            for line in answer:
                event = _event(line)
                text += "".join(one["delta"].get("content") or "" for one in event.get("choices", ()))
                said = event.get("error", said)
                ended |= line.startswith(b"data: [DONE]")
        except (OSError, http.client.HTTPException) as error:
            return text, f"{type(error).__name__}: {error}", False
        finally:
            connection.close()
        if said is not None:
            return text, json.dumps(said), said.get("code") == "node_lost"
        return text, "" if ended else "it ended before its end", False

    def _body(self, client: int) -> dict[str, Any]:
        question = " ".join(f"w{(17 * client + 5 * place) % 300}" for place in range(12))
        system, user = {"role": "system", "content": self._system}, {"role": "user", "content": question}
        fixed = {"temperature": 0, "ignore_eos": True, "max_tokens": self._tokens, "stream": True}
        return {"model": self._target.model, "messages": [system, user], **fixed}


def _event(line: bytes) -> dict[str, Any]:
    """What a line of a stream says; nothing, if a node was lost in the middle of it."""
    if not line.startswith(b"data: {"):
        return {}
    try:
        event: dict[str, Any] = json.loads(line[6:])
        return event
    except ValueError:
        return {}
