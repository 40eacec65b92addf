"""Engine: the loop that turns requests into tokens.

One thread does it all, a step at a time: take what arrived, let the scheduler choose, exchange one message with the
kvstore, run the batch, hand out the tokens. The engine owns nothing that must survive it: when its kvstore is lost,
every request ends with an error that says so, and it attaches to the next one.

Past its lease, or once the kvstore is gone, a finished step's tokens are dropped: nothing computed after the loss is
delivered.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from itertools import count

import structlog

from quire_proto.client import KVClient
from quire_proto.errors import LayoutMismatch, LocalError, QuireError
from quire_proto.link import Abort, Generate, Load, Output, Outputs, TokenLogprob
from quire_proto.packed import pack

from .front import Front, GatewayLost
from .memory import Memory
from .request import Request, Sequence
from .runner import Drawn, Runner
from .scheduler import Scheduler, SchedulerLimits, Work
from .steplog import StepLog

IDLE_S = 0.2
REATTACH_S = 0.05

log = structlog.get_logger()


class Engine:
    """One engine process's work.

    Args:
        attach: opens a session with the kvstore (raises QuireError).
        make_runner: makes the runner over the arena of a session.
        front: link to the gateway, set before ``run``.
        limits: batch slots and token budget.
        max_model_len: longest sequence, in tokens.
        vocab_size, eos_ids: of the model.
        step_log: where each step leaves a line, if anywhere.
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
    ) -> None:
        self._attach, self._make_runner = attach, make_runner
        self._scheduler = Scheduler(limits)
        self._max_model_len, self._vocab_size, self._eos_ids = max_model_len, vocab_size, eos_ids
        self._step_log = step_log
        self._memory: Memory | None = None
        self._runner: Runner | None = None
        self._arrivals = count(1)
        self._quiet_until = 0.0
        self._outputs: list[Output] = []
        self._stopping = False
        self.counters = dict.fromkeys(
            ("steps", "messages", "requests", "prompt_tokens", "computed_tokens", "generated_tokens", "lost"), 0
        )

    def load(self) -> Load:
        """The present load, for the gateway; called from the front's thread."""
        memory = self._memory
        counters = {**self.counters, "preemptions": self._scheduler.preemptions}
        return Load(
            ready=memory is not None and not self._stopping,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            counters=counters,
            boot=memory.client.boot if memory else b"",
        )

    def stop(self) -> None:
        """Make ``run`` return after the step in progress; may be called from a signal handler."""
        self._stopping = True
        self.front.wake()

    def run(self) -> None:
        """Serve until stopped. Raises LayoutMismatch or LocalError if this engine can never attach."""
        while not self._stopping:
            client = self._try_attach()
            if client is None:
                self._refuse_arrivals()
                continue
            try:
                with client:
                    self._serve(client)
            except QuireError as exc:
                self._lose(str(exc))

    def _try_attach(self) -> KVClient | None:
        try:
            return self._attach()
        except (LayoutMismatch, LocalError):
            raise
        except QuireError as exc:
            log.debug("attach_failed", reason=str(exc))
            return None

    def _serve(self, client: KVClient) -> None:
        self._runner = self._make_runner(client)
        self._memory = Memory(client)
        log.info("attached", boot=client.boot.hex(), blocks=client.num_blocks)
        self.front.report()
        while not self._stopping:
            self._take_arrivals(self._idle_s(self._memory), self._memory)
            if client.lost.is_set():
                raise client.lost_reason or QuireError("the session was lost")
            self._step(self._memory, self._runner)
        self._end_all("abort", "", "the engine is stopping")

    def _idle_s(self, memory: Memory) -> float:
        """How long the engine may wait for a message: not at all while there is work."""
        if self._scheduler.running or memory.pending():
            return 0.0
        if self._scheduler.waiting:
            return min(IDLE_S, max(0.0, self._quiet_until - time.monotonic()))
        return IDLE_S

    def _may_admit(self) -> bool:
        return bool(self._scheduler.waiting) and time.monotonic() >= self._quiet_until

    def _lose(self, reason: str) -> None:
        """The kvstore is gone: nothing in flight can be finished here."""
        log.warning("kvstore_lost", reason=reason)
        self.counters["lost"] += 1
        self._memory = self._runner = None
        self._outputs.clear()
        self.front.report()
        self._end_all("error", "kvstore_lost", "the kvstore was lost; send the request again")

    def _end_all(self, finish: str, code: str, message: str) -> None:
        for sequence in self._scheduler.clear():
            self._emit(Output(sequence.request.id, sequence.index, finish=finish, code=code, message=message))
        self._flush()

    # --- requests ------------------------------------------------------------------------------------------------

    def _refuse_arrivals(self) -> None:
        for message in self.front.receive(REATTACH_S):
            if isinstance(message, Generate):
                self._fail(message, "kvstore_lost", "this engine has no kvstore at the moment")
        self._flush()

    def _take_arrivals(self, wait_s: float, memory: Memory) -> None:
        for message in self.front.receive(wait_s):
            if isinstance(message, Generate):
                self._accept(message, memory)
            elif isinstance(message, Abort):
                self._abort(message, memory)
            else:
                assert isinstance(message, GatewayLost)
                for sequence in self._scheduler.clear():
                    memory.finished(sequence)
        self._flush()

    def _accept(self, message: Generate, memory: Memory) -> None:
        request = Request.of(message, self._eos_ids)
        problem = self._problem(request)
        if problem:
            self._fail(message, *problem)
            return
        self.counters["requests"] += 1
        self.counters["prompt_tokens"] += len(request.prompt) // 4
        memory.match(request)
        known = request.prompt + message.emitted
        tokens = array("I", known)
        chain = memory.client.chain(request.tenant, known)
        self._scheduler.add(Sequence(0, request, 0, tokens, chain, next(self._arrivals)))

    def _problem(self, request: Request) -> tuple[str, str] | None:
        tokens = array("I", request.prompt)
        if not tokens or max(tokens) >= self._vocab_size:
            return "invalid", f"the prompt needs at least one token, each below {self._vocab_size}"
        if len(tokens) + len(request.emitted) >= self._max_model_len:
            return "too_long", f"a prompt of {len(tokens)} tokens; at most {self._max_model_len - 1} fit"
        if not 1 <= request.n <= self._scheduler.limits.max_sequences:
            return "invalid", f"n must be 1 to {self._scheduler.limits.max_sequences} on this engine"
        if request.sampling.max_tokens <= len(request.emitted):
            return "invalid", "max_tokens must be larger than what was emitted already"
        return None

    def _fail(self, message: Generate, code: str, text: str) -> None:
        for index in range(max(1, message.n)):
            self._emit(Output(message.request, index, finish="error", code=code, message=text))

    def _abort(self, message: Abort, memory: Memory) -> None:
        for sequence in self._scheduler.of_request(message.request):
            request = sequence.request
            request.aborted.update(range(request.n) if message.every else [message.index])
            waiting_for_fork = request.n > 1 and not request.forked
            if sequence.index in request.aborted and (not waiting_for_fork or len(request.aborted) == request.n):
                self._scheduler.remove(sequence)
                memory.finished(sequence)

    # --- a step --------------------------------------------------------------------------------------------------

    def _step(self, memory: Memory, runner: Runner) -> None:
        scheduler = self._scheduler
        hits = {s.arrival: memory.expected_hit(s) for s in scheduler.waiting[:16]} if scheduler.waiting else {}
        wanted = scheduler.plan(hits, self._may_admit())
        if not (wanted.work or wanted.admits or memory.pending()):
            return
        granted = memory.exchange(wanted.extends, wanted.admits)
        for sequence in granted.admitted:
            self._admitted(sequence)
            scheduler.admitted(sequence, wanted)
        for sequence in granted.refused:
            victim = scheduler.refused(sequence, wanted)
            if victim is not None:
                memory.preempted(victim)
        if granted.retry_after_ms:
            self._quiet_until = time.monotonic() + granted.retry_after_ms / 1000
        drawn = runner.run(wanted.work, granted.copies)
        if not memory.client.lease_valid():
            raise memory.client.lost_reason or QuireError("the lease passed during a step")
        self._step_log.write(memory, scheduler, wanted.work)
        self._take_results(memory, wanted.work, drawn)
        memory.completed()
        self.counters["steps"] += 1
        self.counters["messages"] = memory.messages
        self._flush()

    def _admitted(self, sequence: Sequence) -> None:
        request = sequence.request
        if request.cached_tokens < 0:
            request.cached_tokens = min(sequence.computed, len(request.prompt) // 4)

    def _take_results(self, memory: Memory, work: list[Work], drawn: list[Drawn]) -> None:
        for item in work:
            memory.computed(item.sequence, item.count)
            self.counters["computed_tokens"] += item.count
        children: dict[int, list[Sequence]] = {}
        for token in drawn:
            sequence = token.sequence
            if token.first:
                branch = sequence
                branch.index = token.index
            else:
                branch = self._branch(sequence, token.index, memory)
            alive = self._advance(branch, token, memory)
            if alive and not token.first:
                children.setdefault(sequence.arrival, []).append(branch)
            if sequence.request.n > 1:
                sequence.request.forked = True
        for token in drawn:
            if token.first and token.sequence.arrival in children:
                self._fork(token.sequence, children[token.sequence.arrival], memory)

    def _branch(self, parent: Sequence, index: int, memory: Memory) -> Sequence:
        """A child of ``parent`` at all it has computed, before the parent's own next token."""
        known = parent.computed
        return Sequence(
            memory.new_id(),
            parent.request,
            index,
            parent.tokens[:known],
            parent.chain.fork(known),
            next(self._arrivals),
            table=parent.table.copy(),
            computed=known,
            sealed=parent.sealed,
        )

    def _fork(self, parent: Sequence, children: list[Sequence], memory: Memory) -> None:
        memory.forked(parent, children)
        for child in children:
            self._scheduler.joined(child)

    def _advance(self, sequence: Sequence, drawn: Drawn, memory: Memory) -> bool:
        """Append the token and say so; False if the continuation ends with it."""
        sampled, request = drawn.sampled, sequence.request
        sequence.append(sampled.token)
        self.counters["generated_tokens"] += 1
        finish = self._finish(sequence, sampled.token)
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.sampling.logprobs:
            logprobs = (TokenLogprob(sampled.logprob, pack(sampled.top_ids), sampled.top_logprobs),)
        self._emit(
            Output(
                request.id,
                sequence.index,
                tokens=pack([sampled.token]),
                logprobs=logprobs,
                finish=finish,
                cached_tokens=max(0, request.cached_tokens),
            )
        )
        if finish and drawn.first:
            self._scheduler.remove(sequence)
            memory.finished(sequence)
        return not finish

    def _finish(self, sequence: Sequence, token: int) -> str:
        s = sequence.request.sampling
        if token in sequence.request.stop_ids and sequence.generated >= s.min_tokens:
            return "stop"
        if sequence.generated >= s.max_tokens or len(sequence.tokens) >= self._max_model_len:
            return "length"
        return ""

    def _emit(self, output: Output) -> None:
        self._outputs.append(output)

    def _flush(self) -> None:
        if self._outputs:
            self.front.send(Outputs(tuple(self._outputs)))
            self._outputs = []
