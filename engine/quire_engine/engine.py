"""Engine: the loop that turns requests into tokens.

One thread does it all, a step at a time, between receiving requests (``intake``) and sending tokens (``outbox``):

    plan     the scheduler chooses what to compute and what that needs (``StepPlan``)
    sync     one message to the kvstore at most, whose answers go into the tables (``KvSession``)
    apply    what else the answers ask for, in one order (``StepGrants``)
    launch   one packed batch to the device (``Runner``)
    collect  the tokens of the oldest step in flight (``Pipeline``, ``TokenOutput``)

On a CPU the step collected is the one just launched; on a GPU it is the one before, so that planning and the message
cost nothing while the device computes. The engine owns nothing that must survive it:
when its kvstore is lost, every request ends with an error that says so, and it attaches to the next one.

Past its lease, or once the kvstore is gone, a finished step's tokens are dropped: nothing computed after the loss is
delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from quire_engine.beams.beam import Beam
from quire_engine.beams.beams import Beams
from quire_engine.drafts.drafts import Drafts
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.handoff.adoption import adopt_offered
from quire_engine.handoff.departure import Departure
from quire_engine.handoff.offers import Offers
from quire_engine.kv.attach import ContextPoisoned
from quire_engine.kv.kv_session import KvSession
from quire_engine.kv.sequence_limits import bounds
from quire_engine.kv.step_grants import NO_ROOM, StepGrants
from quire_engine.model.runner import Drawn, Runner
from quire_engine.scheduling.backoff import ALL_ACCOUNTS, Backoff
from quire_engine.scheduling.front import Front
from quire_engine.scheduling.grammar_queue import GrammarQueue
from quire_engine.scheduling.intake import Intake
from quire_engine.scheduling.outbox import Outbox
from quire_engine.scheduling.pipeline import Pipeline
from quire_engine.scheduling.publication_prefill import PublicationPrefill
from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_engine.scheduling.token_output import TokenOutput
from quire_engine.scheduling.waiters import Waiters
from quire_engine.sequences.request_figures import RequestFigures
from quire_engine.sequences.request_traces import RequestTraces
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import StepPlan, Work
from quire_kv import DeviceFault, KVClient, LayoutMismatch, LocalError, NameTaken, QuireError
from quire_proto.gateway_link import Abort, Drain, Generate, Handoff, Load, request_id
from quire_proto.spans import Tracer

IDLE_S = 0.2
LEAVING_S = 0.02  # between two looks at whether something is left
REATTACH_S = 0.05
NAME_S = 10.0  # that a name may be taken, by a process that is ending or dead

log = structlog.get_logger()


class Engine:
    """One engine process's work.

    Args:
        attach: opens a session with the kvstore (raises QuireError).
        make_runner: makes the runner over the arena of a session.
        limits: batch slots and token budget.
        max_model_len: longest sequence, in tokens.
        vocab_size, eos_ids: of the model.
        step_log: where each step leaves a line, if anywhere.
        prefill: whether pending publications are computed before a request asks for them.
        compiler: of grammars; without one, requests that have one are refused.
        tracer: told of requests that are traced.

    Attributes:
        front: link to the gateway, set before ``run``.
    """

    front: Front

    def __init__(
        self,
        attach: Callable[[], KVClient],
        make_runner: Callable[[KVClient], Runner],
        limits: SchedulerLimits,
        max_model_len: int,
        vocab_size: int,
        eos_ids: frozenset[int],
        step_log: StepLog,
        prefill: bool = True,
        compiler: GrammarCompiler | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._attach, self._make_runner = attach, make_runner
        self._scheduler = Scheduler(limits)
        self._outbox = Outbox(RequestTraces(tracer))
        self._grammars = GrammarQueue(compiler, self._scheduler, self._outbox, lambda: self.front.wake())
        self._beams = Beams(self._scheduler, self._outbox, min(limits.max_sequences, vocab_size))
        self._intake = Intake(
            self._scheduler, self._outbox, max_model_len, vocab_size, eos_ids, self._grammars, self._beams.first
        )
        self._figures = RequestFigures(self._outbox.counters)
        self._token_output = TokenOutput(self._scheduler, self._outbox, self._figures, self._intake.next_arrival)
        self._step_log, self._max_model_len, self._prefills = step_log, max_model_len, prefill
        self._kv: KvSession | None = None
        self._backoff = Backoff()
        self._name_taken = 0.0  # since when, monotonic
        self._stopping = self._draining = False
        self._departure = Departure()

    def load(self) -> Load:
        """The present load, for the gateway; called from the front's thread."""
        kv = self._kv
        longest, widest = bounds(kv.client) if kv else (0, 0)
        return Load(
            ready=kv is not None and not self._stopping,
            running=len(self._scheduler.running),
            waiting=self._scheduler.queued(),
            counters={**self._outbox.counters, "preemptions": self._scheduler.preemptions},
            times=self._figures.times(),
            boot=kv.client.boot if kv else b"",
            longest=min(self._max_model_len, longest),
            widest=min(self._max_model_len, widest),
            session=kv.client.session_id if kv else b"",
            slots=max(0, self._scheduler.slots_left() - len(self._scheduler.offered)),
            leaving=self._departure.asked,
        )

    def stop(self) -> None:
        """Make ``run`` return after the step in progress; may be called from a signal handler."""
        self._stopping = True
        self.front.wake()

    def leave(self, within_s: float) -> None:
        """Make ``run`` return when others have taken over what there is, or it has ended, or in so many seconds; may be
        called from a signal handler."""
        self._departure.ask(within_s)
        self.front.wake()

    def run(self) -> None:
        """Serve until stopped, or gone.

        Raises LayoutMismatch, LocalError or NameTaken if this engine cannot attach, ContextPoisoned or DeviceFault if
        this process can use its GPU no more.
        """
        while not self._stopping and not self._departure.asked:
            client = self._try_attach()
            if client is None:
                self._refuse_arrivals()
                continue
            try:
                self._serve_and_close(client)
            except DeviceFault:
                raise
            except QuireError as exc:
                self._lose(str(exc))

    def _serve_and_close(self, client: KVClient) -> None:
        try:
            self._serve(client)
        except ContextPoisoned:
            raise  # no goodbye: only the end of this process says that nothing of it writes any more
        except BaseException:
            client.close()
            raise
        client.close()

    def _try_attach(self) -> KVClient | None:
        try:
            client = self._attach()
        except (LayoutMismatch, LocalError):
            raise
        except NameTaken as exc:
            self._name_taken = self._name_taken or time.monotonic()
            if time.monotonic() - self._name_taken > NAME_S:
                raise
            log.debug("attach_failed", reason=str(exc))
            return None
        except QuireError as exc:
            log.debug("attach_failed", reason=str(exc))
            return None
        self._name_taken = 0.0
        return client

    def _serve(self, client: KVClient) -> None:
        runner = self._make_runner(client)
        try:
            self._kv = kv = KvSession(client, runner.window)
            waiters = self._waiters = Waiters(kv, self._scheduler, self.front.wake)
            self._offers = offers = Offers(kv, self._scheduler, self._outbox, waiters.forget)
            pipeline = Pipeline(kv, runner, partial(self._deliver, kv), self._outbox.counters)
            self._drafts = Drafts(kv.block_size, pipeline.depth, self._scheduler.grown, self._outbox.counters)
            prefill = PublicationPrefill(self._scheduler, kv, self._max_model_len, self._intake.next_arrival)
            log.info("attached", boot=client.boot.hex(), blocks=client.num_blocks)
            self.front.report()
            while not self._stopping and not self._gone(kv, pipeline):
                self._receive(0.0 if len(pipeline) else self._idle_s(kv), kv)
                if client.lost.is_set():
                    raise client.lost_reason or QuireError("the session was lost")
                waiters.resume()
                self._grammars.resume(kv)
                if self._prefills and not self._draining and not self._departure.asked:
                    prefill.queue_pending()
                offers.expire()
                if offers.asked:
                    self._hand_over(kv, pipeline)
                adopt_offered(kv, self._scheduler, self._outbox)
                self._step(kv, pipeline)
        finally:
            runner.release()  # before the session is closed, which unmaps
        for sequence in self._scheduler.clear():
            self._outbox.give_back(sequence, sequence.computed or sequence.had)
        self._outbox.flush(self.front)

    def _lose(self, reason: str) -> None:
        """The kvstore is gone: nothing in flight can be finished here."""
        log.warning("kvstore_lost", reason=reason, requests=self._scheduler.request_ids())
        self._outbox.counters["kvstores_lost"] += 1
        self._outbox.drop()
        self._kv = None
        self.front.report()
        for sequence in self._scheduler.clear():
            self._outbox.end(sequence, "error", "kvstore_lost", "the kvstore was lost; send the request again")
        self._outbox.flush(self.front)

    def _gone(self, kv: KvSession, pipeline: Pipeline) -> bool:
        """Whether an engine that is to leave can do so: nothing is left here, and nothing new can come."""
        if not self._departure.asked:
            return False
        left = len(self._scheduler.sequences())
        if self._departure.begins():
            self._offers.leave_publications()
            self.front.report()
            log.info("leaving", sequences=left)
        if self._departure.late():
            log.warning("left_unfinished", sequences=left, requests=self._scheduler.request_ids())
            return True
        told = self._draining or not self.front.connected
        return told and not left and not len(pipeline) and not kv.pending() and self._offers.settled()

    # --- arrivals ----------------------------------------------------------------------------------------------

    def _refuse_arrivals(self) -> None:
        for message in self.front.receive(REATTACH_S):
            if isinstance(message, Generate):
                self._outbox.fail(message, "kvstore_lost", "this engine has no kvstore now")
        self._outbox.flush(self.front)

    def _receive(self, wait_s: float, kv: KvSession) -> None:
        for message in self.front.receive(wait_s):
            if isinstance(message, Generate):
                self._intake.accept(message, kv)
            elif isinstance(message, Abort):
                for sequence in self._intake.abort(message, kv):
                    self._waiters.forget(sequence)
                self._offers.abort(message)
            elif isinstance(message, Handoff):
                self._offers.ask(message)
            elif isinstance(message, Drain):
                self._draining = message.on
                if message.on:
                    self._offers.leave_publications()
            else:  # the gateway is gone, and with it every reader of an answer
                self._draining = False
                self._outbox.traces.clear()
                for sequence in self._scheduler.clear():
                    kv.finished(sequence)
        self._outbox.flush(self.front)

    def _idle_s(self, kv: KvSession) -> float:
        """How long the engine may wait for a message: not at all while there is work."""
        if self._scheduler.running or kv.pending():
            return 0.0
        if self._departure.asked:
            return LEAVING_S
        if self._scheduler.waiting:
            return min(IDLE_S, self._backoff.remaining_s(self._scheduler.waiting.tenants(), time.monotonic()))
        return IDLE_S

    # --- a step ------------------------------------------------------------------------------------------------

    def _step(self, kv: KvSession, pipeline: Pipeline) -> None:
        """Plan -> sync -> apply -> launch, if there is something to do; then collect the oldest step in flight if no
        more may be."""
        self._yield_slot(kv, pipeline)
        plan = self._plan()
        if plan.work or plan.admits or (kv.pending() and not len(pipeline)):
            self._exchange(plan, kv, pipeline)
            pipeline.collect(pipeline.depth - 1)
        else:
            pipeline.collect(max(0, len(pipeline) - 1))

    def _exchange(self, plan: StepPlan, kv: KvSession, pipeline: Pipeline) -> None:
        said = kv.messages
        grants = kv.sync(plan)
        self._apply(grants, plan, kv, pipeline)
        self._outbox.counters["messages"] += kv.messages - said
        self._step_log.write(kv, self._scheduler, plan.work)
        if self._outbox.traces.open:
            self._outbox.traces.computes(kv.step, [(item.sequence.request.trace, item.count) for item in plan.work])
        pipeline.launch(plan.work, grants.copies)

    # --- between engines ---------------------------------------------------------------------------------------

    def _hand_over(self, kv: KvSession, pipeline: Pipeline) -> None:
        """Offer to other engines what the gateway asks for."""
        pipeline.collect(0)
        self._offers.choose()
        while kv.pending():
            self._exchange(StepPlan(), kv, pipeline)
            pipeline.collect(0)
        self._offers.make()
        self._outbox.flush(self.front)

    def _deliver(self, kv: KvSession, work: list[Work], drawn: list[Drawn]) -> None:
        drawn = self._drafts.confirm(work, drawn)
        beams = [one for one in drawn if isinstance(one.sequence, Beam)]
        others = [one for one in drawn if not isinstance(one.sequence, Beam)] if beams else drawn
        self._token_output.apply(kv, work, others)
        self._beams.offer(kv, beams)
        self._outbox.flush(self.front)

    def _yield_slot(self, kv: KvSession, pipeline: Pipeline) -> None:
        """Have a tenant that has more than its portion yield a slot, if another one waits for its own."""
        deferred = self._backoff.deferred(time.monotonic())
        sequence = None if ALL_ACCOUNTS in deferred else self._scheduler.slot_donor(deferred)
        if sequence is None:
            return
        pipeline.collect(0)  # what is preempted must have nothing in flight
        if self._scheduler.slots_left() <= 0 and not sequence.ended and self._scheduler.yield_slot(sequence):
            self._preempt(kv, sequence)

    def _plan(self) -> StepPlan:
        deferred = self._backoff.deferred(time.monotonic())
        may_admit = bool(self._scheduler.waiting) and ALL_ACCOUNTS not in deferred
        hits = self._waiters.select(deferred) if may_admit else {}
        plan = self._scheduler.plan(hits, may_admit, only=hits)
        self._drafts.propose(plan)
        return plan

    def _apply(self, grants: StepGrants, plan: StepPlan, kv: KvSession, pipeline: Pipeline) -> None:
        """Act on the kvstore's answers, in the order that ``StepGrants`` gives, and settle what the step computes."""
        scheduler = self._scheduler
        if grants.short_ahead:
            scheduler.short_ahead()
        for sequence, block in grants.claimed:
            self._waiters.begin(sequence, block)
        for number, priority in grants.priorities:
            scheduler.inherit(number, priority)
        for sequence in grants.admitted:
            if self._outbox.begin(sequence):
                self._figures.admitted(sequence)
            scheduler.admitted(sequence, plan)
        if grants.rejected or grants.starved:
            pipeline.collect(0)
            plan.drop_ended()
        for sequence in grants.unneeded:
            scheduler.remove(sequence)
        for sequence, code, reason, missing in grants.rejected:
            self._reject(kv, plan, sequence, code, reason, missing)
        for sequence, account in grants.starved:
            victim = scheduler.starved(sequence, plan, account)
            if victim is not None:
                hopeless = self._preempt(kv, victim, sequence)
                if hopeless is not None:
                    reason = f"there is no memory for the request's {hopeless.least_slots} beams"
                    self._reject(kv, plan, hopeless, NO_ROOM, reason)
        for account, ms in grants.backoff_ms.items():
            if self._backoff.defer(account, ms, time.monotonic()):
                log.info("no_space", account=account or "(everybody)", retry_after_ms=ms)
        self._drafts.settle(plan)
        scheduler.decided(plan)

    def _preempt(self, kv: KvSession, victim: Sequence, short: Sequence | None = None) -> Sequence | None:
        """The victim, with all its gang, gives its blocks up, for ``short`` if that had none; what should not try again
        then."""
        if not isinstance(victim, Beam):
            kv.preempted(victim)
            return None
        for_itself = short in victim.members
        first = self._beams.preempted(kv, victim)
        return first if for_itself and self._beams.hopeless(first) else None

    def _reject(
        self, kv: KvSession, plan: StepPlan, sequence: Sequence, code: str, reason: str, missing: int = 0
    ) -> None:
        """There is no space for it and never will be; if it ran, its blocks come back."""
        if sequence.ended:
            return  # with the step that was in flight
        self._outbox.end(sequence.members[0], "error", code, reason, missing)
        for member in sequence.members:
            plan.drop(member)
            self._scheduler.remove(member)
            kv.finished(member)
        log.info("refused", request_id=request_id(sequence.request.id), reason=reason)
