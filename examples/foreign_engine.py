"""A foreign engine: shares KV through a kvstore with nothing but the client library and numpy.

Run it twice against one kvstore, or once with ``--role both``, which starts a writer and a reader as two processes:

    python foreign_engine.py --run-dir DIR --role both

The writer allocates a sequence, writes the KV of a prompt into the arena, seals its full blocks, forks it and does
the copy that copy-on-write asks for. The reader asks for the same prompt in a process of its own, is told how much
of it is already computed, and finds the writer's bytes in the arena. The "model" is a function of (token, position)
whose bits fill keys and values: what a real engine would compute, it makes up, but every byte can be checked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np

from quire_proto.client import KVClient
from quire_proto.layout import DTYPE_BYTES
from quire_proto.messages import OK, Allocated, Stepped
from quire_proto.packed import pack, unpack, unpack_rows
from quire_proto.retire import RetireList
from quire_proto.step import StepBuilder, results

TENANT = "foreign"


class Engine:
    """One attached engine: a client and the arena as an array (layer, kv, head, block, slot, d) of raw bits."""

    def __init__(self, client: KVClient) -> None:
        self.client, self.layout = client, client.layout
        bits = np.dtype(f"<u{DTYPE_BYTES[self.layout.dtype]}")
        self.arena = np.frombuffer(client.map(), bits).reshape(self.layout.shape(client.num_blocks))
        self.tables: dict[int, list[int]] = {}
        self.retire = RetireList()
        self.builder = StepBuilder(self.retire)
        self.steps = 0

    def model(self, token: int, position: int) -> np.ndarray:
        """Keys and values of one token: (layer, kv, head, d)."""
        shape = (self.layout.num_layers, 2, self.layout.num_kv_heads, self.layout.head_dim)
        element = np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
        mixed = (element + 1) * 2654435761 + (token + 1) * 40503 + (position + 1) * 97
        return (mixed >> 5).astype(self.arena.dtype)

    def slot(self, sequence: int, position: int) -> np.ndarray:
        """A view of the arena: the keys and values of one position of a sequence."""
        block, slot = divmod(position, self.layout.block_size)
        return self.arena[:, :, :, self.tables[sequence][block], slot, :]

    def copy(self, reply: Allocated | Stepped) -> None:
        """Do the copies of a reply, and record that they ran in this step."""
        for copy_id, src, dst, slots in unpack_rows(reply.copies, 4):
            self.arena[:, :, :, dst, :slots] = self.arena[:, :, :, src, :slots]
            self.retire.copy_done(self.steps, copy_id)

    def compute(self, sequence: int, tokens: list[int], first: int) -> None:
        """Write the KV of ``tokens`` from position ``first`` on and report the fill mark."""
        for position in range(first, len(tokens)):
            self.slot(sequence, position)[...] = self.model(tokens[position], position)
        self.builder.fill(sequence, len(tokens))

    def correct(self, sequence: int, tokens: list[int]) -> bool:
        """Whether the arena holds the model's KV of ``tokens``."""
        return all(np.array_equal(self.slot(sequence, p), self.model(t, p)) for p, t in enumerate(tokens))

    def allocate(self, sequence: int, tokens: list[int]) -> int:
        """A table for a new sequence; returns how many tokens are already computed."""
        chain = self.client.chain(TENANT, pack(tokens))
        reply = self.client.allocate(sequence=sequence, tenant=TENANT, tokens=len(tokens), digests=chain.digests())
        if reply.code != OK:
            sys.exit(f"no space: {reply.missing} blocks missing")
        self.tables[sequence] = list(unpack(reply.blocks))
        self.copy(reply)
        return reply.computed

    def step(self) -> None:
        """End a step: numpy has written by now, so it is complete; tell the kvstore everything in one message."""
        self.retire.complete(self.steps)
        self.steps += 1
        message = self.builder.build()
        if message is None:
            return
        reply = self.client.step(message)
        if results(message, reply).shortages:
            sys.exit("no space for the next tokens")
        for sequence, index, block in unpack_rows(reply.blocks, 3):
            self.tables[sequence][index : index + 1] = [block]
        self.copy(reply)


def write(engine: Engine, prompt: list[int]) -> dict[str, object]:
    """Compute a prompt, seal it, fork it, and let both branches go on in a block they share."""
    cached = engine.allocate(1, prompt)
    engine.compute(1, prompt, cached)
    engine.builder.seal(1, 0, engine.client.chain(TENANT, pack(prompt)).digests())
    engine.step()

    engine.builder.fork(1, [2], len(prompt))
    engine.tables[2] = list(engine.tables[1])
    engine.builder.extend(2, len(prompt) + 1)  # write access: brings the copy of the shared unfull block
    engine.builder.extend(1, len(prompt) + 1)  # the parent stays the appender and writes in place
    engine.step()
    branches = {1: [*prompt, 1001], 2: [*prompt, 2002]}
    for sequence, tokens in branches.items():
        engine.compute(sequence, tokens, len(prompt))
    engine.step()
    correct = all(engine.correct(sequence, tokens) for sequence, tokens in branches.items())
    shared = sum(a == b for a, b in zip(engine.tables[1], engine.tables[2], strict=True))
    engine.client.free([1, 2])
    return {"cached": cached, "correct": correct, "shared": shared, "table": len(engine.tables[2])}


def read(engine: Engine, prompt: list[int]) -> dict[str, object]:
    """Ask for the same prompt: what another process sealed is there already, byte for byte."""
    cached = engine.allocate(1, prompt)
    return {"cached": cached, "correct": cached > 0 and engine.correct(1, prompt[:cached])}


def main() -> int:
    """Command line; exit status 0 only if every byte was right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", required=True, help="directory of the kvstore's sockets")
    parser.add_argument("--role", choices=("writer", "reader", "both"), default="both")
    arguments = parser.parse_args()
    if arguments.role == "both":
        roles = [[sys.executable, __file__, "--run-dir", arguments.run_dir, "--role", r] for r in ("writer", "reader")]
        return max(subprocess.run(command, check=False).returncode for command in roles)
    with KVClient(arguments.run_dir, name=f"foreign-{arguments.role}") as client:
        prompt = [7 * i % 97 for i in range(3 * client.block_size + client.block_size // 2)]
        report = (write if arguments.role == "writer" else read)(Engine(client), prompt)
    print(json.dumps({"role": arguments.role, **report}))
    return 0 if report["correct"] else 1


if __name__ == "__main__":
    sys.exit(main())
