"""A foreign engine: shares KV through a kvstore with nothing but the client library's base install.

Run it twice against one kvstore, or once with ``--role both``, which starts a writer and a reader as two processes:

    python foreign_engine.py --run-dir DIR --role both

The writer allocates a sequence, writes the KV of a prompt into the arena, seals its full blocks, forks it and does
the copy that copy-on-write asks for. The reader asks for the same prompt in a process of its own, is told how much
of it is already computed, and finds the writer's bytes in the arena. The "model" is a function of (token, position)
whose bits fill keys and values: what a real engine would compute, it makes up, but every byte can be checked.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from hashlib import shake_128

import quire_kv
from quire_kv import KVClient, NoSpace, RetireList, StepBuilder, pack_u32, results, unpack_rows, unpack_u32

TENANT = "foreign"


class Engine:
    """One attached engine: a client, and the arena as bytes."""

    def __init__(self, client: KVClient) -> None:
        arena = client.map()
        if not isinstance(arena, memoryview):
            sys.exit("this engine writes with the CPU, and the arena is on a GPU")
        self.client, self.arena, self.block_size = client, arena, client.block_size
        layout = client.layout
        self.planes = range(layout.num_layers * 2 * layout.num_kv_heads)  # of (layer, keys or values, head)
        self.width = layout.block_bytes // (len(self.planes) * self.block_size)  # bytes of a slot in a plane
        self.tables: dict[int, list[int]] = {}
        self.retire = RetireList()
        self.builder = StepBuilder(self.retire)
        self.steps = 0

    def parts(self, block: int, slot: int, slots: int) -> Iterator[slice]:
        """Where ``slots`` slots of a block lie, from ``slot`` on: a run of bytes in each plane."""
        for plane in self.planes:
            start = ((plane * self.client.num_blocks + block) * self.block_size + slot) * self.width
            yield slice(start, start + slots * self.width)

    def model(self, sequence: int, position: int, token: int) -> Iterator[tuple[slice, bytes]]:
        """Keys and values of one token of a sequence: where they lie in each plane, and the bytes."""
        index, slot = divmod(position, self.block_size)
        for plane, part in enumerate(self.parts(self.tables[sequence][index], slot, 1)):
            yield part, shake_128(f"{token} {position} {plane}".encode()).digest(self.width)

    def prepare(self, reply: quire_kv.Allocated | quire_kv.Stepped) -> None:
        """Zero what may hold another tenant's content, do the copies, and record that they ran in this step."""
        for part in (part for block in unpack_u32(reply.scrub) for part in self.parts(block, 0, self.block_size)):
            self.arena[part] = bytes(self.block_size * self.width)
        for copy_id, src, dst, slots in unpack_rows(reply.copies, 4):
            for source, target in zip(self.parts(src, 0, slots), self.parts(dst, 0, slots), strict=True):
                self.arena[target] = self.arena[source]
            self.retire.copy_done(self.steps, copy_id)

    def compute(self, sequence: int, tokens: list[int], first: int) -> None:
        """Write the KV of ``tokens`` from position ``first`` on and report the fill mark."""
        for position in range(first, len(tokens)):
            for part, values in self.model(sequence, position, tokens[position]):
                self.arena[part] = values
        self.builder.fill(sequence, len(tokens))

    def correct(self, sequence: int, tokens: list[int]) -> bool:
        """Whether the arena holds the model's KV of ``tokens``."""
        return all(
            self.arena[part] == values
            for position, token in enumerate(tokens)
            for part, values in self.model(sequence, position, token)
        )

    def allocate(self, sequence: int, tokens: list[int]) -> int:
        """A table for a new sequence; returns how many tokens are already computed."""
        digests = self.client.chain(TENANT, pack_u32(tokens)).digests()
        try:
            reply = self.client.allocate(sequence, TENANT, len(tokens), digests)
        except NoSpace as full:
            sys.exit(str(full))
        self.tables[sequence] = list(unpack_u32(reply.blocks))
        self.prepare(reply)
        return reply.computed

    def step(self) -> None:
        """End a step: the CPU has written by now, so it is complete; tell the kvstore everything in one message."""
        self.retire.complete(self.steps)
        self.steps += 1
        if (message := self.builder.build()) is None:
            return
        reply = self.client.step(message)
        if results(message, reply).shortages:
            sys.exit("no space for the next tokens")
        for sequence, index, block in unpack_rows(reply.blocks, 3):
            self.tables[sequence][index : index + 1] = [block]
        self.prepare(reply)


def write(engine: Engine, prompt: list[int]) -> dict[str, object]:
    """Compute a prompt, seal it, fork it, and let both branches go on in a block they share."""
    cached = engine.allocate(1, prompt)
    engine.compute(1, prompt, cached)
    engine.builder.seal(1, 0, engine.client.chain(TENANT, pack_u32(prompt)).digests())
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
