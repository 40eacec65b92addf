"""Memory: everything the engine says to the kvstore, as at most one message a step.

Sequences tell it what became of them (computed, forked, finished, preempted); it keeps seals, fill marks, forks and
releases until the next message and brings the answers back into the sequences' tables. A reference is given up only
after the step that may name its blocks has completed (``RetireList``).

What the cache will probably hold is guessed from the digests this engine has seen sealed: the scheduler admits by
that guess, the kvstore's answer decides.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from quire_proto.client import KVClient
from quire_proto.digests import DIGEST_BYTES, split
from quire_proto.messages import (
    CLAIMED,
    CONFLICT,
    NO_SPACE,
    OK,
    RETRY,
    Allocate,
    Allocated,
    Extended,
    Seal,
    Sealed,
    Step,
)
from quire_proto.packed import unpack, unpack_rows
from quire_proto.retire import RetireList
from quire_proto.step import Results, StepBuilder, results

from .granted import Granted
from .request import Request, Sequence

KNOWN_DIGESTS = 1 << 18
SCRUB = -1  # in place of a copy's source: zero the target


class Memory:
    """The session's tables and what is to be said about them.

    Attributes:
        messages: messages sent, waits included.
        computing: by digest, the sequence of this engine that is computing the block.
        step: number of the last step launched (-1: none).
    """

    def __init__(self, client: KVClient) -> None:
        self.client = client
        self.block_size = client.block_size
        self.messages = 0
        self.step = -1
        self._retire = RetireList()
        self._builder = StepBuilder(self._retire)
        self._unsaid = False
        self._fills: dict[int, Sequence] = {}
        self._sealing: dict[int, Sequence] = {}
        self.computing: dict[bytes, Sequence] = {}
        self._known: set[bytes] = set()
        self._next_id = 1

    # --- what becomes of sequences ---------------------------------------------------------------------------

    def new_id(self) -> int:
        """An id no live sequence of the session has."""
        self._next_id = self._next_id % 0xFFFF_FFFF + 1
        return self._next_id

    def computed(self, sequence: Sequence, count: int) -> None:
        """``count`` more tokens of ``sequence`` are written and seen complete."""
        sequence.computed += count
        self._fills[sequence.id] = sequence
        self._seal_full(sequence)

    def forked(self, parent: Sequence, children: list[Sequence]) -> None:
        """``children`` share all the parent has computed; they own their ids already."""
        self._builder.fill(parent.id, parent.computed)
        self._builder.fork(parent.id, [child.id for child in children], parent.computed)
        self._unsaid = True

    def finished(self, sequence: Sequence) -> None:
        """The sequence needs its blocks no more; what is full is sealed first and stays as cache.

        They are given up when the newest step is complete, even if that computes something for the sequence still.
        """
        sequence.ended = True
        self._computes_no_more(sequence)
        if sequence.asked:
            self.forgo(sequence)
        if len(sequence.table):
            if self._fills.pop(sequence.id, None):
                # Its last seals go out with the release and are refused beyond the acknowledged fill mark.
                self._builder.fill(sequence.id, sequence.computed)
            self._retire.release(self.step, sequence.id)

    def forgo(self, sequence: Sequence) -> None:
        """What was waited for, or had become the sequence's to compute, is no more."""
        self._retire.release(self.step, sequence.id)
        sequence.asked = False

    def preempted(self, sequence: Sequence) -> None:
        """The sequence gives all its blocks back and will be computed again."""
        self.finished(sequence)
        sequence.drop_memory()

    def completed(self, step: int) -> None:
        """The work of ``step`` is seen complete: what it used may be given up."""
        self._retire.complete(step)
        self.client.progress = step + 1

    def longest(self, request: Request) -> int:
        """The longest sequence the pool can hold for this request: all but what others' publications pin."""
        pinned = 0
        for publication in self.client.publications:
            if publication.id != request.publication:
                pinned += -(-len(publication.tokens) // (4 * self.block_size))
        return (self.client.num_blocks - pinned - 1) * self.block_size

    def pending(self) -> bool:
        """Something must be said even if no work needs it."""
        return self._unsaid or self._retire.waiting() > 0

    # --- the cache as far as it is known ----------------------------------------------------------------------

    def match(self, request: Request) -> None:
        """Name the publication the request's prompt begins with, if any."""
        found = self.client.match(request.tenant, request.prompt)
        request.publication = found.id if found else ""
        request.publication_generation = found.generation if found else 0

    def expected_hit(self, sequence: Sequence) -> int:
        """Tokens of a waiting sequence that are probably computed already."""
        chain = sequence.chain
        unknown = bisect_left(range(chain.blocks), True, key=lambda i: chain.digests(i, i + 1) not in self._known)
        return unknown * self.block_size

    def _learn(self, digests: bytes) -> None:
        if len(self._known) > KNOWN_DIGESTS:
            self._known.clear()
        self._known.update(split(digests))

    # --- the message -------------------------------------------------------------------------------------------

    def exchange(self, extends: list[tuple[Sequence, int]], admits: list[Sequence]) -> Granted:
        """Begin a step: say what is to be said, in one message at most, and take the answers over."""
        self.step += 1
        granted = Granted()
        if not (extends or admits or self.pending()):
            return granted
        for sequence in self._fills.values():
            self._builder.fill(sequence.id, sequence.computed)
        for sequence, tokens in extends:
            self._builder.extend(sequence.id, tokens)
        for sequence in admits:
            self._builder.allocate(self._allocation(sequence))
        step = self._builder.build()
        sealing, self._sealing, self._fills, self._unsaid = self._sealing, {}, {}, False
        if step is None:
            return granted
        answers = self._send(step)
        granted.urgent = answers.priorities
        self._apply_seals(answers, sealing)
        for sequence, _ in extends:
            self._apply_extend(sequence, answers.extends[sequence.id], granted)
        for sequence in admits:
            self._apply_allocate(sequence, answers.allocates[sequence.id], granted)
        return granted

    def _send(self, step: Step) -> Results:
        self.messages += 1
        return results(step, self.client.step(step))

    def _allocation(self, sequence: Sequence) -> Allocate:
        if not sequence.asked:
            sequence.id = self.new_id()  # else it keeps the id under which it may have become the one to compute
        request = sequence.request
        return Allocate(
            sequence=sequence.id,
            tenant=request.tenant,
            tokens=len(sequence.tokens),
            digests=sequence.chain.digests(),
            publication=request.publication,
            publication_generation=request.publication_generation,
            priority=request.priority,
            may_wait=int(sequence.patient),
        )

    def _apply_allocate(self, sequence: Sequence, answer: Allocated, granted: Granted) -> None:
        sequence.asked = answer.code == CLAIMED
        if answer.code == OK:
            sequence.table = np.frombuffer(answer.blocks, "<u4").astype(np.int32)
            sequence.computed = answer.computed
            sequence.sealed = answer.computed // self.block_size
            sequence.writable = sequence.patient = True
            self._learn(sequence.chain.digests(0, sequence.sealed))
            self.computing.update(dict.fromkeys(split(sequence.chain.digests(sequence.sealed)), sequence))
            self._take_copies(answer, granted)
            granted.admitted.append(sequence)
        elif answer.code == CLAIMED:
            blocks = len(answer.claimed) // DIGEST_BYTES
            granted.claimed.append((sequence, answer.computed // self.block_size + blocks - 1 if blocks else -1))
        elif not sequence.request.tenant and answer.code in (CONFLICT, RETRY):
            granted.unneeded.append(sequence)
        elif answer.code == RETRY:
            self.client.refresh_publications()
            self.match(sequence.request)
        else:
            granted.deny(sequence, answer)

    def _apply_extend(self, sequence: Sequence, answer: Extended, granted: Granted) -> None:
        if answer.code == NO_SPACE:
            granted.refused.append((sequence, answer.account))
            return
        assert answer.code == OK, f"extend of our own sequence answered {answer.code}"
        fresh = np.frombuffer(answer.blocks, "<u4").astype(np.int32)
        sequence.table = np.concatenate((sequence.table[: answer.first], fresh))
        sequence.writable = True
        self._take_copies(answer, granted)

    def _take_copies(self, answer: Allocated | Extended, granted: Granted) -> None:
        """Scrubs before copies: the target of a copy may be a block to be scrubbed."""
        granted.copies += [(SCRUB, block, self.block_size) for block in unpack(answer.scrub)]
        for copy_id, src, dst, slots in unpack_rows(answer.copies, 4):
            granted.copies.append((src, dst, slots))
            self._retire.copy_done(self.step, copy_id)

    # --- seals -------------------------------------------------------------------------------------------------

    def _computes_no_more(self, sequence: Sequence) -> None:
        for digest in split(sequence.chain.digests(sequence.sealed)):
            if self.computing.get(digest) is sequence:
                del self.computing[digest]

    def _seal_full(self, sequence: Sequence) -> None:
        full = sequence.computed // self.block_size
        if full > sequence.sealed and sequence.request.tenant:  # a publication has no tenant's chain to seal
            chain = sequence.chain
            tokens = chain.packed(sequence.sealed, full) if self.client.wants_tokens else b""
            self._builder.seal(sequence.id, sequence.sealed, chain.digests(sequence.sealed, full), tokens)
            sequence.sealed = full
            self._sealing[sequence.id] = sequence
            self._unsaid = True

    def _apply_seals(self, answers: Results, sealing: dict[int, Sequence]) -> None:
        for seal, answer in answers.seals:
            for digest in split(seal.digests):
                self.computing.pop(digest, None)
            if answer.code == OK:
                self._learn(seal.digests)
                self._swap(sealing[seal.sequence], seal, answer)

    def _swap(self, sequence: Sequence, seal: Seal, answer: Sealed) -> None:
        """Move to the canonical blocks: the next step names them, the last one launched still the old ones.

        The table is a new one, because a step in flight may still read the old.
        """
        for index, block in unpack_rows(answer.canonical, 2):
            assert seal.first <= index < seal.first + len(seal.digests) // DIGEST_BYTES
            if sequence.id == seal.sequence and len(sequence.table):
                self._retire.swap(self.step - 1, sequence.id, index, block)
                sequence.table = sequence.table.copy()
                sequence.table[index] = block
