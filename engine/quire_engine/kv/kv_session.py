"""KvSession: everything the engine says to the kvstore, as at most one message a step.

Sequences tell it what became of them (computed, forked, finished, preempted); it says fill marks, seals, forks and
releases in the next message and brings the answers back into the sequences' tables. A reference is given up only
after the step that may name its blocks has completed (``RetireList``).

What no other sequence waits for asks for no message: full blocks of generated tokens are sealed with whatever is said
next, and the scheduler's looking ahead makes that once in many steps. Blocks of a prompt, which others may wait for,
are sealed in the step after the one that computed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from quire_engine.sequences.sequence import Request, Sequence
from quire_engine.sequences.step_plan import StepPlan, Work
from quire_kv import (
    CLAIMED,
    CONFLICT,
    NO_SPACE,
    OK,
    RETRY,
    Adopt,
    Adopted,
    Allocate,
    Allocated,
    KVClient,
    Offer,
    QuireError,
    Results,
    RetireList,
    Step,
    StepBuilder,
    Stepped,
    Wait,
    Waited,
    results,
)
from quire_proto.wire.digests import DIGEST_BYTES, split
from quire_proto.wire.u32 import unpack_rows, unpack_u32

from .known_digests import KnownDigests
from .left_behind import LeftBehind
from .step_grants import StepGrants

SCRUB = -1  # in place of a copy's source: zero the target
PREEMPTION = "preemption"


class KvSession:
    """The session's tables and what is to be said about them.

    Attributes:
        messages: messages sent, waits included.
        known: what is known of the prefix index without asking.
        step: number of the last step launched (-1: none).
    """

    def __init__(self, client: KVClient, window: int | None = None) -> None:
        self.client = client
        self.block_size = client.block_size
        self.known = KnownDigests(client.block_size)
        self.messages = 0
        self.step = -1
        self._retire = RetireList()
        self._builder = StepBuilder(self._retire)
        self._left_behind = LeftBehind(window, client.block_size, self._builder)
        self._pending = False
        self._sealing: dict[int, Sequence] = {}
        self._live: dict[int, Sequence] = {}  # those that have a table
        self._owing: dict[int, Sequence] = {}  # of these, those whose prompt is not computed and sealed yet
        self._urgent: list[tuple[int, int]] = []
        self._next_id = 1

    # --- what becomes of sequences ---------------------------------------------------------------------------

    def new_id(self) -> int:
        """An id no live sequence of the session has."""
        self._next_id = self._next_id % 0xFFFF_FFFF + 1
        return self._next_id

    def computed(self, work: Iterable[Work]) -> None:
        """This work is seen complete; what of it belongs to sequences that have ended counts for nothing."""
        for item in work:
            sequence = item.sequence
            if not sequence.ended:
                sequence.computed += item.count
        self._pending |= any(map(self._owes, self._owing.values()))

    def _owes(self, sequence: Sequence) -> bool:
        """Whether something of its prompt is there that others may wait for, and the kvstore does not know."""
        return sequence.computed >= sequence.promised or sequence.computed // self.block_size > sequence.sealed

    def forked(self, parent: Sequence, children: list[Sequence]) -> None:
        """``children`` share all the parent has computed; they own their ids already."""
        self._seal_full(parent)
        self._builder.fill(parent.id, parent.computed)
        self._builder.fork(parent.id, [child.id for child in children], parent.computed)
        self._left_behind.keep((parent, *children))
        for child in children:
            child.sealed, child.behind = parent.sealed, parent.behind
            self._live[child.id] = child
        self._pending = True

    def finished(self, sequence: Sequence) -> None:
        """The sequence needs its blocks no more; what is full is sealed first and stays as cache.

        They are given up when the newest step is complete, even if that computes something for the sequence still.
        """
        sequence.ended = True
        if sequence.registered:
            self.cancel_wait(sequence)
        if self._live.pop(sequence.id, None) is sequence:
            # Its last seals go out with the release.
            self._seal_full(sequence)
            self._builder.fill(sequence.id, sequence.computed)
            self._owing.pop(sequence.id, None)
            self._retire.release(self.step, sequence.id)
        self.known.give_up(sequence)

    def dropped(self, sequence: Sequence) -> None:
        """A running sequence ends of which nothing need be kept: its blocks come back with the next message."""
        sequence.ended = True
        del self._live[sequence.id]
        self._owing.pop(sequence.id, None)
        self._retire.release(self.step, sequence.id)
        self.known.give_up(sequence)

    def cancel_wait(self, sequence: Sequence) -> None:
        """What was waited for, or had become the sequence's to compute, is no more."""
        self._retire.release(self.step, sequence.id)
        sequence.registered = False

    def preempted(self, sequence: Sequence) -> None:
        """The sequence gives all its blocks back and will be computed again."""
        sequence.had, sequence.cause = sequence.computed, PREEMPTION
        if sequence.request.trace is not None:
            sequence.request.trace.preempted()
        self.finished(sequence)
        sequence.drop_blocks()

    # --- to another session and from it ----------------------------------------------------------------------

    def quiesce(self, sequence: Sequence) -> None:
        """Nothing of the sequence is in flight: all that is written of it is said in the next message."""
        self._seal_full(sequence)
        self._builder.fill(sequence.id, sequence.computed)
        self._owing.pop(sequence.id, None)
        self._pending = True

    def offer(self, sequences: list[tuple[Sequence, bytes]], expires_ms: int) -> list[bytes]:
        """Offer quiesced sequences to other sessions, everything said: the name of each offer, or nothing if its
        session is not there, and the sequence stays ours. What is not adopted is to be given up (``forget``)."""
        offers = tuple([Offer(one.id, target, expires_ms, one.asks("offer")) for one, target in sequences])
        offered = self._say(Step(offers=offers)).offers
        for (sequence, _), answer in zip(sequences, offered, strict=True):
            sequence.answered("offer", answer.code)
            if answer.code == OK:
                sequence.ended = True
                del self._live[sequence.id]
                self.known.give_up(sequence)
        return [answer.offer for answer in offered]

    def forget(self, number: int) -> None:
        """Give up a sequence that was offered; if it was adopted this changes nothing."""
        self._retire.release(self.step, number)

    def adopt(self, sequences: list[Sequence]) -> list[Sequence]:
        """Take over what other sessions offer of these, as far as it is computed; those that must be allocated are not
        returned."""
        for sequence in sequences:
            sequence.id = self.new_id()
        adopts = tuple([Adopt(sequence.handed, sequence.id, sequence.asks("adopt")) for sequence in sequences])
        answers = zip(sequences, self._say(Step(adopts=adopts)).adopts, strict=True)
        return [sequence for sequence, adopted in answers if self._apply_adopted(sequence, adopted)]

    def _say(self, step: Step) -> Stepped:
        """Say something between steps; what the answer has of priorities is told with the next step's."""
        self.messages += 1
        reply = self.client.step(step)
        self._urgent += [(row[0], row[1]) for row in unpack_rows(reply.priorities, 2)]
        return reply

    def _apply_adopted(self, sequence: Sequence, adopted: Adopted) -> bool:
        sequence.handed = b""
        sequence.answered("adopt", adopted.code)
        if adopted.code != OK:
            return False
        if adopted.tenant != sequence.request.tenant or adopted.fill >= len(sequence.tokens):
            self.forget(sequence.id)
            return False  # another sequence than is asked for
        sequence.table = np.frombuffer(adopted.blocks, "<u4").astype(np.int32)
        sequence.computed, sequence.sealed, sequence.behind = adopted.fill, adopted.sealed, adopted.behind
        sequence.writable = adopted.capacity > adopted.fill
        sequence.promised = len(sequence.tokens)
        self._live[sequence.id] = self._owing[sequence.id] = sequence
        self.known.admit(sequence)
        return True

    def completed(self, step: int) -> None:
        """The work of ``step`` is seen complete: what it used may be given up."""
        self._retire.complete(step)
        self.client.progress = step + 1

    def pending(self) -> bool:
        """Something must be said even if no work needs it."""
        return self._pending or self._retire.waiting() > 0

    # --- the cache as far as it is known ----------------------------------------------------------------------

    def match(self, request: Request) -> None:
        """Name the publication the request's prompt begins with, if any; a salt asks for isolation from that, too."""
        found = None if request.salt else self.client.match(request.tenant, request.prompt)
        request.publication = found.id if found else ""
        request.publication_generation = found.generation if found else 0
        request.list_generation = self.client.publications.generation

    # --- the message -------------------------------------------------------------------------------------------

    def sync(self, plan: StepPlan) -> StepGrants:
        """Begin a step: say what became of the sequences and what ``plan`` needs, in one message at most.

        The answers are in the sequences' tables when it returns; what else they ask for is in the grants.
        """
        self.step += 1
        grants = StepGrants(priorities=self._urgent)
        self._urgent = []
        if not (plan.extends or plan.admits or self.pending()):
            return grants
        step = self._message(plan)
        sealing, self._sealing, self._pending = self._sealing, {}, False
        if step is None:
            return grants
        self.messages += 1
        reply = self.client.step(step)
        answers = results(step, reply)
        self._apply_seals(step, reply, sealing)
        self._apply_extends(plan, answers, reply, grants)
        if any(answer.code == RETRY for answer in reply.allocates):
            self._renew_publications(reply.publications_generation)
        for sequence in plan.admits:
            self._apply_allocate(sequence, answers.allocates[sequence.id], grants)
        grants.priorities += answers.priorities
        return grants

    def begin_wait(self, wait: Wait, seconds: float, done: Callable[[Waited | QuireError], None]) -> None:
        """Wait at the kvstore for what another session computes; ``done`` is called on another thread."""
        self.messages += 1
        self.client.begin_wait(wait, seconds, done)

    def _message(self, plan: StepPlan) -> Step | None:
        """What is to be said, or None if that is nothing."""
        self._say_progress()
        self._left_behind.say(self._live.values())
        for sequence, tokens in (*plan.extends, *plan.ahead):
            self._builder.extend(sequence.id, tokens)
        for sequence in plan.admits:
            self._builder.allocate(self._allocation(sequence))
        return self._builder.build()

    def _allocation(self, sequence: Sequence) -> Allocate:
        if not sequence.registered:
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
            may_wait=int(sequence.may_wait),
            list_generation=request.list_generation,
            trace=sequence.asks("allocate"),
        )

    def _apply_allocate(self, sequence: Sequence, answer: Allocated, grants: StepGrants) -> None:
        sequence.registered = answer.code == CLAIMED
        sequence.answered("allocate", answer.code)
        if answer.code == OK:
            sequence.table = np.frombuffer(answer.blocks, "<u4").astype(np.int32)
            sequence.computed = answer.computed
            sequence.sealed = answer.computed // self.block_size
            sequence.writable = sequence.may_wait = True
            sequence.promised = len(sequence.tokens)
            self._live[sequence.id] = self._owing[sequence.id] = sequence
            self.known.admit(sequence)
            self._add_copies(answer, grants)
            grants.admitted.append(sequence)
        elif answer.code == CLAIMED:
            blocks = len(answer.claimed) // DIGEST_BYTES
            grants.claimed.append((sequence, answer.computed // self.block_size + blocks - 1 if blocks else -1))
        elif not sequence.request.tenant and answer.code in (CONFLICT, RETRY):
            grants.unneeded.append(sequence)
        elif answer.code == RETRY:
            self.match(sequence.request)
        else:
            grants.deny(sequence, answer)

    def _renew_publications(self, generation: int) -> None:
        """Fetch the list once for all that were asked to match again, if this one is older than the kvstore's."""
        if self.client.publications.generation < generation:
            self.client.refresh_publications()

    def _apply_extends(self, plan: StepPlan, answers: Results, reply: Stepped, grants: StepGrants) -> None:
        """What was granted is writable, and new entries of tables, row by row; a table that another step reads keeps
        its old entries."""
        for sequence, _ in plan.extends:
            if (short := answers.shortages.get(sequence.id)) is not None:
                grants.short(sequence, short)
            else:
                sequence.writable = True
        grants.short_ahead = len(answers.shortages) > len(grants.starved) + len(grants.rejected)
        assert set(reply.extends) <= {OK, NO_SPACE}, "an extend of our own sequences"
        live = self._live
        for number, index, block in unpack_rows(reply.blocks, 3):
            sequence = live[number]
            if index == len(sequence.table):
                sequence.grow(block)
            else:
                sequence.table = sequence.table.copy()
                sequence.table[index] = block
        self._add_copies(reply, grants)

    def _add_copies(self, answer: Allocated | Stepped, grants: StepGrants) -> None:
        """Scrubs before copies: the target of a copy may be a block to be scrubbed."""
        grants.copies += [(SCRUB, block, self.block_size) for block in unpack_u32(answer.scrub)]
        for copy_id, src, dst, slots in unpack_rows(answer.copies, 4):
            grants.copies.append((src, dst, slots))
            self._retire.copy_done(self.step, copy_id)

    # --- seals -------------------------------------------------------------------------------------------------

    def _say_progress(self) -> None:
        """Everything that is full since the last message, and prompts that are complete."""
        size = self.block_size
        for sequence in [s for s in self._live.values() if s.computed // size > s.sealed]:
            self._seal_full(sequence)
        for sequence in [s for s in self._owing.values() if s.computed >= s.promised]:
            self._builder.fill(sequence.id, sequence.computed)  # a publication's tail is frozen by its fill mark
            del self._owing[sequence.id]

    def _seal_full(self, sequence: Sequence) -> None:
        first, full = sequence.sealed, sequence.computed // self.block_size
        if full == first:
            return
        sequence.sealed = full
        if not sequence.request.tenant:  # a publication has no tenant's chain to seal
            self._builder.fill(sequence.id, sequence.computed)
            return
        self._sealing[sequence.id] = sequence
        # A subscriber could take a salted block for what requests without that salt can hit.
        chain, announced = sequence.chain, self.client.wants_tokens and not sequence.request.salt
        if full == first + 1 and not announced:
            self._builder.complete(sequence.id, first, sequence.computed, chain.digests(first, full))
        else:
            tokens = chain.packed(first, full) if announced else b""
            self._builder.fill(sequence.id, sequence.computed)
            self._builder.seal(sequence.id, first, chain.digests(first, full), tokens)

    def _apply_seals(self, step: Step, reply: Stepped, sealing: dict[int, Sequence]) -> None:
        """What is sealed is known; a canonical block takes the place of its duplicate."""
        known = []
        for seal, answer in zip(step.seals, reply.seals, strict=True):
            self.known.answered(split(seal.digests))
            if answer.code == OK:
                known += split(seal.digests)
                for index, block in unpack_rows(answer.canonical, 2):
                    self._swap(sealing[seal.sequence], seal.sequence, index, block)
        names = split(step.completed_digests)
        self.known.answered(names)
        if any(reply.completed):
            names = [name for name, code in zip(names, reply.completed, strict=True) if code == OK]
        known += names
        for number, index, block in unpack_rows(reply.canonical, 3):
            self._swap(sealing[number], number, index, block)
        self.known.seal(known)

    def _swap(self, sequence: Sequence, number: int, index: int, block: int) -> None:
        """Move to the canonical block: the next step names it, the last one launched still the old one.

        The table is a new one, because a step in flight may still read the old.
        """
        if sequence.id == number and sequence.behind <= index < len(sequence.table):
            self._retire.swap(self.step - 1, sequence.id, index, block)
            sequence.table = sequence.table.copy()
            sequence.table[index] = block
