"""GrammarQueue: sequences whose grammar is being compiled.

They are set aside meanwhile, without slot, block or budget, and others go on. Those whose grammar is known already do
not wait at all. What is no grammar, or too expensive a one, fails its own request and nothing else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from quire_engine.grammar.compiler import GrammarCompiler, GrammarRefused
from quire_engine.grammar.grammar import Grammar
from quire_engine.grammar.tokens import VocabularyRefused
from quire_engine.kv.kv_session import KvSession
from quire_engine.sequences.sequence import Sequence
from quire_proto.gateway_link import request_id

from .outbox import Outbox
from .scheduler import Scheduler

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Held:
    """A sequence, and what it waits for."""

    sequence: Sequence
    grammar: Future[Grammar]


class GrammarQueue:
    """The held sequences of one engine.

    Args:
        compiler: makes grammars; None if this engine cannot.
        scheduler: whose queue they join.
        outbox: where refusals go.
        wake: called on another thread when a grammar is there.
    """

    def __init__(
        self, compiler: GrammarCompiler | None, scheduler: Scheduler, outbox: Outbox, wake: Callable[[], None]
    ) -> None:
        self._compiler, self._scheduler, self._outbox, self._wake = compiler, scheduler, outbox, wake
        self._held: list[Held] = []

    def hold(self, sequence: Sequence) -> None:
        """Take a sequence whose request has a grammar."""
        request = sequence.request
        if self._compiler is None:
            self._outbox.end(sequence, "error", "grammar", "this engine serves no grammars")
            return
        try:
            text = request.sampling.grammar.decode()
        except UnicodeDecodeError:
            self._outbox.end(sequence, "error", "grammar", "the grammar is no text in UTF-8")
            return
        likely = request.sampling.likely_grammar.decode(errors="replace")
        grammar = self._compiler.compile(request.tenant, text, likely)
        self._scheduler.hold(sequence)
        self._held.append(Held(sequence, grammar))
        grammar.add_done_callback(lambda _: self._wake())

    def resume(self, kv: KvSession) -> None:
        """Queue those whose grammar is there, and end those that have none."""
        if not self._held:
            return
        held, self._held = self._held, []
        for one in held:
            if not self._scheduler.holds(one.sequence):
                continue  # aborted, or its kvstore was lost
            if not one.grammar.done():
                self._held.append(one)
                continue
            finish, code, message = self._enter(one)
            if not finish:
                self._scheduler.resume(one.sequence)
                continue
            self._scheduler.remove(one.sequence)
            kv.finished(one.sequence)
            self._outbox.end(one.sequence, finish, code, message)

    def _enter(self, held: Held) -> tuple[str, str, str]:
        """Stand the sequence in its grammar; how it ends if it cannot go on: finish, code, message. Raises MemoryError
        where this engine is too short of memory to tell."""
        try:
            held.sequence.request.grammar = held.grammar.result()
        except GrammarRefused as refusal:
            return "error", "grammar", str(refusal)
        except VocabularyRefused as refusal:
            return "error", "grammar", f"this model's answers cannot be held to a grammar: {refusal}"
        except Exception as error:  # of any kind: what libraries say of the tokenizer's files
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
                raise MemoryError(f"for a grammar: {error}") from error
            why, name = f"{type(error).__name__}: {error}", held.sequence.request.id
            log.error("no_vocabulary", request_id=request_id(name), reason=why)
            return "error", "internal", "this engine cannot read its model's vocabulary"
        held.sequence.enter_grammar()
        state = held.sequence.grammar
        assert state is not None, "of a request with a grammar"
        if state.error:
            return "error", "grammar", state.error
        return "stop" if state.ended else "", "", ""
