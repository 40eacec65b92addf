"""GrammarCompiler: texts of grammars to grammars, beside the engine's loop and never on it.

Most grammars take less than a millisecond, and those that clients repeat nothing; but one client can send a text that
would take hours. So texts are compiled on threads (llguidance lets go of the interpreter meanwhile), after a trial in
a process that can be ended (``trial``), and whatever asks gets a future. Of each tenant one text is compiled at a time,
in turn: one that sends expensive texts waits for itself, and takes one of the threads at most.

A vocabulary is read once, when the first grammar is asked for: an engine that is never asked spends nothing. Grammars
are kept by tenant, so that no tenant learns from the time it takes what another asks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Lock, Thread

from llguidance import LLTokenizer

from quire_proto.gateway_link import MAX_GRAMMAR

from .grammar import Grammar, said
from .speller import SpelledTexts, Speller
from .tokens import Tokens, tree_of
from .trial import Trial, compiled

KEPT = 256  # grammars
THREADS = 2


class GrammarRefused(ValueError):
    """A text that is no grammar, or too expensive a one; the message is for the client."""


@dataclass(frozen=True, slots=True)
class _Task:
    text: str
    likely: str
    grammar: Future[Grammar]


class GrammarCompiler:
    """Compiles for one engine.

    Args:
        tokens: reads the vocabulary; called once, on a thread of the compiler's.
    """

    def __init__(self, tokens: Callable[[], Tokens]) -> None:
        self._read_tokens = tokens
        self._known: tuple[Tokens, LLTokenizer, Speller] | None = None
        self._reading = Lock()
        self._kept: OrderedDict[tuple[str, str, str], Future[Grammar]] = OrderedDict()
        self._changed = Condition()
        self._tasks: OrderedDict[str, deque[_Task]] = OrderedDict()  # by tenant, whose turn it is first
        self._busy: set[str] = set()  # tenants
        self._threads: list[Thread] = []
        self._closed = False

    def compile(self, tenant: str, text: str, likely: str = "") -> Future[Grammar]:
        """The grammar of a text, done if it is known; it may raise GrammarRefused, and whatever ``tokens`` does.
        ``likely``: the text of the likely one beside it; one that cannot be used is left out."""
        if len(text) > MAX_GRAMMAR:
            refused = Future[Grammar]()
            refused.set_exception(GrammarRefused(f"the grammar has {len(text)} characters, and may have {MAX_GRAMMAR}"))
            return refused
        key = (tenant, text, likely)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = Future[Grammar]()
            self._queue(tenant, _Task(text, likely, found))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found

    def close(self) -> None:
        """Begin nothing more, and end the processes; what has not begun is cancelled."""
        with self._changed:
            self._closed = True
            for tasks in self._tasks.values():
                for task in tasks:
                    task.grammar.cancel()
            self._changed.notify_all()

    def _queue(self, tenant: str, task: _Task) -> None:
        with self._changed:
            self._tasks.setdefault(tenant, deque()).append(task)
            self._changed.notify()
        if not self._threads:
            self._threads = [Thread(target=self._work, name=f"grammar-{i}", daemon=True) for i in range(THREADS)]
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        trial: Trial | None = None
        while (turn := self._next()) is not None:
            tenant, task = turn
            if task.grammar.set_running_or_notify_cancel():
                try:
                    tokens, tree, speller = self._read()
                    trial = trial or Trial(tokens)
                    task.grammar.set_result(_compile(trial, tree, speller, task))
                except Exception as error:  # of any kind: what libraries say of the tokenizer's files, too
                    task.grammar.set_exception(error)
            with self._changed:
                self._busy.remove(tenant)
                self._changed.notify_all()
        if trial is not None:
            trial.close()

    def _next(self) -> tuple[str, _Task] | None:
        """The next task of a tenant that has none in work, waited for; None if there will be no more."""
        with self._changed:
            while not self._closed:
                tenant = next((name for name in self._tasks if name not in self._busy), None)
                if tenant is None:
                    self._changed.wait()
                    continue
                tasks = self._tasks.pop(tenant)
                task = tasks.popleft()
                if tasks:
                    self._tasks[tenant] = tasks  # behind the others
                self._busy.add(tenant)
                return tenant, task
        return None

    def _read(self) -> tuple[Tokens, LLTokenizer, Speller]:
        with self._reading:
            if self._known is None:
                tokens = self._read_tokens()
                tree = tree_of(tokens)
                self._known = tokens, tree, Speller(tree, tokens.spelled, [*tokens.special, *tokens.ends])
            return self._known


def _compile(trial: Trial, tree: LLTokenizer, speller: Speller, task: _Task) -> Grammar:
    if not trial.survives(task.text):
        raise GrammarRefused("the grammar takes too much time or memory to compile")
    matcher = compiled(tree, task.text)
    if matcher.is_error():
        raise GrammarRefused(f"the grammar cannot be used: {said(matcher)}")
    likely = None
    if task.likely and len(task.likely) <= MAX_GRAMMAR and trial.survives(task.likely):
        likely = compiled(tree, task.likely)
    return Grammar(matcher, SpelledTexts(speller), None if likely is None or likely.is_error() else likely)
