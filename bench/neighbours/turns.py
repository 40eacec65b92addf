"""Turns: how long a kvstore's thread is busy with one turn of a request, in CPU time, without processes or sockets.

Another client's step waits at most for the turn that is being executed, so the longest turn of a long prompt's ops is
what the neighbour costs. Measured in process CPU time through the real dispatch: a busy machine disturbs it little.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from typing import Any

from quire_kv import Layout
from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.server.dispatch import Dispatch
from quire_kvstore.server.service import Service
from quire_kvstore.server.task import Task
from quire_kvstore.state import State
from quire_proto import messages as m
from quire_proto.wire.codec import to_map
from quire_proto.wire.envelope import Request, decode_reply
from quire_proto.wire.handles import ShmHandle
from quire_proto.wire.u32 import pack_u32
from quire_services.process.gc_tuning import tune_gc

BLOCK_SIZE, PORTIONS = 16, (256, 2048)
LAYOUT = Layout("ids", "w0", "{}", "", "float32", BLOCK_SIZE, 1, 1, 8)


class _Client:
    """A session of a kvstore in this process, and what each turn of its requests took (ms), longest of each request."""

    def __init__(self, policy: str, blocks: int) -> None:
        state = State(blocks, BLOCK_SIZE, make_policy(policy, blocks))
        handle = ShmHandle("/bench", LAYOUT.arena_bytes(blocks))
        self._service = Service(state, LAYOUT, handle, bytes(32), lease_ms=1 << 40, started_ms=0)
        self._dispatch, self._session, self._number = Dispatch(self._service), b"", -1
        self.now_ms = 0
        self.longest: dict[str, list[float]] = defaultdict(list)
        token = self._service.admit(1).token
        self._session = self.ask("attach", "attach", m.Attach(bytes(16), token, "turns"))["session"]
        self.ask("ready", "ready", m.Empty())

    def ask(self, name: str, op: str, body: Any) -> Any:
        """The reply's body."""
        self._number += 1
        frame = Request(self._service.boot, self._session, self._number, op, 0, to_map(body)).encode()
        task, longest, answer = Task(b"bench", [frame], self.now_ms), 0.0, None
        while answer is None:
            began = time.process_time()
            answer = self._dispatch.handle(task, self.now_ms)
            longest = max(longest, (time.process_time() - began) * 1000)
        self.longest[name].append(longest)
        return decode_reply(answer).body


def longest_turns(policy: str, blocks: int, tokens: int, prompts: int) -> dict[str, list[float]]:
    """By op, the longest turn of each request (ms), of so many prompts in a pool that is full of cache."""
    tune_gc()  # as the kvstore's process does
    client, each = _Client(policy, blocks), tokens // BLOCK_SIZE
    filling = blocks // each + 2
    for prompt in range(filling + prompts):
        if prompt == filling:
            client.longest.clear()
        _live(client, each, PORTIONS[prompt % 2])
    return client.longest


def _live(client: _Client, blocks: int, portion: int) -> None:
    client.now_ms += 40
    digests, tokens, children = secrets.token_bytes(32 * blocks), blocks * BLOCK_SIZE, pack_u32([1, 2, 3])
    prompt = m.Step(allocates=(m.Allocate(0, "long", tokens + 1, digests),))
    client.ask("allocate", "step", prompt)
    client.ask("fill", "step", m.Step(fills=pack_u32([0, tokens + 1])))
    for first in range(0, blocks, portion):
        names = digests[32 * first : 32 * (first + portion)]
        name = f"seal {portion} blocks" if len(names) == 32 * portion else "seal the rest"
        client.ask(name, "step", m.Step(seals=(m.Seal(0, first, names),)))
    client.ask("fork 3", "step", m.Step(forks=(m.Fork(0, children, tokens),)))
    client.ask("free 3 forks", "step", m.Step(releases=children))
    client.ask("free", "step", m.Step(releases=pack_u32([0])))
    client.now_ms += 10
    client.ask("allocate, all cached", "step", prompt)
    client.ask("free what was cached", "step", m.Step(releases=pack_u32([0])))
