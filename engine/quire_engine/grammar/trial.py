"""Trial: a process of its own in which a text is compiled first, because nothing can stop a thread.

Where a grammar intersects patterns, a text of fifty characters can take hours and all memory: llguidance bounds lexers
and rows, not that. So each text is compiled here before the engine compiles it. The kernel ends the process that takes
more CPU time or memory than a text may; the text is refused then, and the next one finds a new process.

It is told the vocabulary once, then texts, and answers each of all these with a byte; a message is 4 bytes of length,
little-endian, and so many more. It maps nothing of the engine's, and ends when its input does: none is left when an
engine is killed.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgpack
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from .tokens import Tokens, tree_of

CPU_S = 3  # that a text may take
MEMORY = 1 << 30  # that it may take beside what the process has
# What one mask may take, in llguidance's units, and what the lexer of a grammar may become (1 to 2 kB a state). A place
# from which a mask would take more is an error of its own answer, and delays no other by more than some milliseconds.
MASK_LEXER_FUEL, MASK_ITEMS, LEXER_STATES = 20_000, 4_000, 20_000
# Beside any grammar this one, which nothing uses, has its options hold for the whole: where one text only may come,
# masks allow every token that the text goes on with, and not the tokenizer's alone.
ANY_TOKENS = {"lark_grammar": '%llguidance {"no_forcing": true}\nstart: ""'}


def compiled(tree: LLTokenizer, text: str) -> LLMatcher:
    """A text as a matcher, at fault if it is no grammar. Its first mask is made, which is when lexers are built."""
    limits = LLParserLimits(
        step_lexer_fuel=MASK_LEXER_FUEL,
        step_max_items=MASK_ITEMS,
        max_lexer_states=LEXER_STATES,
        verbose_errors=False,
    )
    matcher = LLMatcher(tree, _with_any_tokens(text), log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher


def _with_any_tokens(text: str) -> str:
    """A grammar whose masks allow all tokens of what it allows; what is none stays none."""
    if not text.lstrip().startswith("{"):
        return json.dumps({"grammars": [{"lark_grammar": text}, ANY_TOKENS]})
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        given = json.loads(text)
        return json.dumps({**given, "grammars": [*given["grammars"], ANY_TOKENS]})
    return text


class Trial:
    """The process, from outside; used by one thread."""

    def __init__(self, tokens: Tokens) -> None:
        told = {"spelled": list(tokens.spelled), "special": list(tokens.special), "ends": list(tokens.ends)}
        self._told: bytes = msgpack.packb(told)
        self._process: subprocess.Popen[bytes] | None = None

    def survives(self, text: str) -> bool:
        """Whether the process can compile the text, or say that it is none, within its bounds. Raises MemoryError if it
        ends before it has seen the text: that is no fault of the text's."""
        if self._process is None:
            # A session of its own: what a terminal sends the engine is not for it.
            command = [sys.executable, "-P", "-m", "quire_engine.grammar.trial"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload]
            if not self._answers(self._told):
                raise MemoryError("the process that tries grammars cannot start")
        return self._answers(text.encode(errors="surrogatepass"))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _answers(self, body: bytes) -> bool:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(len(body).to_bytes(4, "little") + body)
            self._process.stdin.flush()
        answered = bool(self._process.stdout.read(1))
        if not answered:
            self.close()
        return answered


@dataclass(frozen=True, slots=True)
class _ToldTokens:
    spelled: list[bytes]
    special: list[int]
    ends: list[int]

    def encode(self, _text: str) -> list[int]:
        """No text is encoded where nothing is generated."""
        return []


def main(given: IO[bytes], answers: IO[bytes]) -> None:
    """Compile texts until the input ends, or one takes too much."""
    tree = tree_of(_ToldTokens(**msgpack.unpackb(_read(given))))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _answer(answers)
    while True:
        text = _read(given).decode(errors="surrogatepass")
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = math.ceil(used.ru_utime + used.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_S, resource.RLIM_INFINITY))
        compiled(tree, text)
        _answer(answers)


def _answer(answers: IO[bytes]) -> None:
    answers.write(b"\n")
    answers.flush()


def _read(given: IO[bytes]) -> bytes:
    """The next message. Raises EOFError at the end."""
    size = given.read(4)
    if len(size) < 4:
        raise EOFError
    return given.read(int.from_bytes(size, "little"))


if __name__ == "__main__":
    with suppress(EOFError):
        main(sys.stdin.buffer, sys.stdout.buffer)
