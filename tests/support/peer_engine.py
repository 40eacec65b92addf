"""A small engine for tests of the gateway: it speaks the link honestly and answers with a fixed rule.

Token k of continuation i is token (k + i) of the prompt, the prompt repeated without end: a test chooses the answer
by choosing the prompt. With ``follow`` it plays scripts instead: each token says which one comes next
(``puppet``). One token a step; a step is taken when the engine is not held and has steps left. It repeats its load
every second, as engines do, unless it is to be silent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire_proto.gateway_link import (
    Abort,
    Continuation,
    Drain,
    Generate,
    Handoff,
    Hello,
    Load,
    Message,
    Output,
    Outputs,
    Received,
    TokenLogprob,
    decode_message,
    encode_message,
)
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.waits import wait_for

BEAT_S = 1.0


@dataclass
class Branch:
    """One continuation at work."""

    request: Generate
    index: int
    last: int
    done: int = 0


class PeerEngine:
    """An engine in a thread.

    Attributes:
        requests: every ``generate`` received.
        aborts: every ``abort`` received.
        steps: tokens that each continuation may still get; None for no limit.
        together: tokens of a continuation in one output.
        beats: whether it says by itself that it lives.
        reads: whether it says what it has received.
        follow: the token that comes behind each.
        likely: log-probabilities of tokens, of others -0.5.
        cached_tokens: of a prompt, as it says when it admits a request.
        poison: a prompt, packed, on which it dies.
        session: its session with a kvstore.
        slots: that it reports as free.
        handoffs, drains: every such message received.
        offers: those that it has made.
        deaf: it does not do what it is asked to hand over.
    """

    def __init__(
        self,
        path: Path,
        name: str = "peer-1",
        *,
        vocab: int,
        eos: int,
        max_model_len: int = 512,
        role: str = "both",
        reads: bool = True,
        steps: int | None = None,
        poison: bytes = b"",
    ) -> None:
        self.requests: list[Generate] = []
        self.aborts: list[Abort] = []
        self.steps = steps
        self.together = 1
        self.beats, self.reads = True, reads
        self.cached_tokens = 0
        self.follow: Mapping[int, int] = {}
        self.likely: Mapping[int, float] = {}
        self.poison = poison
        self.session, self.slots = secrets.token_bytes(16), 64
        self.handoffs: list[Handoff] = []
        self.drains: list[Drain] = []
        self.offers: list[bytes] = []
        self.deaf = False
        self._eos = eos
        self._vocab = vocab
        self._lock, self._sending = threading.RLock(), threading.Lock()
        self._branches: list[Branch] = []
        self._ended = threading.Event()
        self._socket = connect(path)
        self.send(Hello(name, "test", max_model_len, vocab, pack_u32([eos]), os.getpid(), role))
        with contextlib.suppress(OSError):  # a gateway that does not take it closes the stream
            self.load(ready=True)
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._work, daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message."""
        with self._sending:
            self._socket.sendall(encode_message(message))

    def load(self, *, ready: bool, running: int = 0, waiting: int = 0, **more: Any) -> None:
        """Report the load."""
        self.report(Load(ready, running, waiting, {}, session=self.session, slots=self.slots, **more))

    def report(self, load: Load) -> None:
        """Report this load, now and with every beat."""
        self._load = load
        self.send(load)

    def busy(self) -> bool:
        """Whether a continuation is at work."""
        with self._lock:
            return bool(self._branches)

    def stalled(self) -> bool:
        """Whether there are continuations, and each has as many tokens as it may have."""
        with self._lock:
            return bool(self._branches) and all(branch.done >= (self.steps or 0) for branch in self._branches)

    def close(self) -> None:
        """Die: the kernel closes the stream."""
        self._ended.set()
        with self._lock:
            self._branches.clear()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def fail_all(self, code: str, message: str, missing: int = 0) -> None:
        """End every continuation with an error."""
        with self._lock:
            ids = [(branch.request.request, branch.index) for branch in self._branches]
            self._branches.clear()
        self.send(
            Outputs(tuple(Output(*of, finish="error", code=code, message=message, missing=missing) for of in ids))
        )

    def _read(self) -> None:
        stream = self._socket.makefile("rb")
        with contextlib.suppress(OSError, ValueError):
            while header := stream.read(4):
                self._take(decode_message(stream.read(int.from_bytes(header, "little"))))

    def _take(self, message: Message) -> None:
        with self._lock:
            if isinstance(message, Generate):
                if self.reads:
                    self.send(Received(message.request))
                self.requests.append(message)
                if message.tokens == self.poison:
                    self.close()
                emitted = unpack_u32(message.emitted)
                last = (unpack_u32(message.tokens) + emitted)[-1]
                numbers = range(message.index, message.index + message.n)
                self._branches += [Branch(message, index, last, len(emitted)) for index in numbers]
                admitted = Output(message.request, message.index, cached_tokens=self.cached_tokens)
                self.send(Outputs((admitted,)))
            elif isinstance(message, Abort):
                self.aborts.append(message)
                self._branches = [
                    b
                    for b in self._branches
                    if b.request.request != message.request or not (message.every or b.index == message.index)
                ]
            elif isinstance(message, Handoff):
                self.handoffs.append(message)
                if not self.deaf:
                    self._hand_over(message)
            elif isinstance(message, Drain):
                self.drains.append(message)

    def _hand_over(self, message: Handoff) -> None:
        given_back = [b for b in self._branches if Continuation(b.request.request, b.index) in message.items]
        self._branches = [b for b in self._branches if b not in given_back]
        items = list[Output]()
        for branch in given_back:
            self.offers.append(secrets.token_bytes(16))
            computed = len(branch.request.tokens) // 4 + branch.done - 1
            told = {"cached_tokens": self.cached_tokens, "offer": self.offers[-1], "computed": computed}
            items.append(Output(branch.request.request, branch.index, finish="abort", **told))
        self.send(Outputs(tuple(items)))

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            beaten = time.monotonic()
            while not self._ended.is_set():
                time.sleep(0 if self._step() else 0.002)
                if self.beats and time.monotonic() - beaten > BEAT_S:
                    self.send(self._load)
                    beaten = time.monotonic()

    def _step(self) -> bool:
        """One token for every request that may have one."""
        with self._lock:
            items = tuple(self._output(b) for b in self._branches if self.steps is None or b.done < self.steps)
            ended = {(item.request, item.index) for item in items if item.finish}
            self._branches = [b for b in self._branches if (b.request.request, b.index) not in ended]
            if items:
                self.send(Outputs(items))
            return bool(items)

    def _output(self, branch: Branch) -> Output:
        """As many tokens as come together."""
        one = self._token(branch)
        for _ in range(self.together - 1):
            if not one.finish:
                more = self._token(branch)
                joined = one.tokens + more.tokens, one.logprobs + more.logprobs
                one = replace(one, tokens=joined[0], logprobs=joined[1], finish=more.finish)
        return one

    def _token(self, branch: Branch) -> Output:
        how = branch.request.sampling
        prompt = unpack_u32(branch.request.tokens)
        token = self.follow.get(branch.last, prompt[(branch.done + branch.index) % len(prompt)])
        branch.last = token
        if not branch.done:
            self._send_scores(branch)
        branch.done += 1
        stops = set(unpack_u32(how.stop_token_ids)) | (set() if how.ignore_eos else {self._eos})
        finish = "length" if branch.done >= how.max_tokens else ""
        if token in stops and branch.done > how.min_tokens:
            finish = "stop"
        logprobs: tuple[TokenLogprob, ...] = ()
        if how.logprobs:
            others = [(token + k) % self._vocab for k in range(how.logprobs - 1)]
            own = self.likely.get(token, -0.5)
            logprobs = (TokenLogprob(own, pack_u32(others), tuple(-0.5 - k for k in range(len(others)))),)
        return Output(branch.request.request, branch.index, pack_u32([token]), logprobs, finish)

    def _send_scores(self, branch: Branch) -> None:
        """Two messages: -1, -2, ... from the second token of the prompt on, its first one likeliest everywhere."""
        most, prompt = branch.request.sampling.prompt_logprobs, unpack_u32(branch.request.tokens)
        if not most or branch.index != branch.request.index:
            return
        tops = pack_u32([prompt[0]] * (most - 1)), (-0.25,) * (most - 1)
        scores = tuple(TokenLogprob(-k, *tops, rank=k + 1) for k in range(1, len(prompt)))
        for piece in (scores[:1], scores[1:]):
            self.send(Outputs((Output(branch.request.request, branch.index, prompt_logprobs=piece),)))


def connect(path: Path) -> socket.socket:
    """A stream to the gateway, as soon as it listens."""

    def connected() -> socket.socket | None:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(str(path))
        except OSError:
            stream.close()
            return None
        return stream

    stream = wait_for(connected, f"{path} listens")
    assert stream is not None
    return stream
