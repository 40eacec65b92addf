"""An engine process, its model's own tokenizer, and requests with a grammar on the link; the test is the gateway."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.models.tiny import FIRST_WORD, make_model
from quire_engine.checkpoint.layout import layout_of
from quire_proto.gateway_link import Generate, Load, Message, Outputs, Sampling, decode_message, encode_message
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.gateway import write_tokenizer
from tests.support.kvstore import Kvstore
from tests.support.repository import child_environ


class Link:
    """The gateway's end."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(120)

    def accept(self) -> None:
        connection, _ = self._server.accept()
        connection.settimeout(60)
        self._connection, self._stream = connection, connection.makefile("rb")

    def send(self, message: Message) -> None:
        self._connection.sendall(encode_message(message))

    def next(self) -> Message:
        return decode_message(self._stream.read(int.from_bytes(self._stream.read(4), "little")))

    def answer(self, request: Generate) -> tuple[list[int], str, str]:
        """Its tokens, how it ended, and what was said of that."""
        self.send(request)
        tokens = list[int]()
        while True:
            for item in getattr(self.next(), "items", ()):
                assert item.request == request.request
                tokens += unpack_u32(item.tokens)
                if item.finish:
                    return tokens, item.finish, item.message

    def close(self) -> None:
        self._stream.close()
        self._connection.close()
        self._server.close()


@pytest.mark.process
def test_an_engine_reads_its_vocabulary_and_holds_answers_to_grammars(tmp_path: Path) -> None:
    """Words of the tokenizer's file come as the grammar says; a text that is none is refused, and nothing stays."""
    model = make_model(tmp_path / "model", vocab=320)
    tokenizer = write_tokenizer(model)  # letters in place of words
    kvstore = Kvstore(tmp_path / "run", layout=layout_of(model, "float32", 16), published=()).start()
    link = Link(kvstore.run_dir / "gateway.sock")
    command = [sys.executable, "-P", "-m", "quire_services.daemons.engined", "--model", str(model)]
    engine = subprocess.Popen([*command, "--run-dir", str(kvstore.run_dir)], env=child_environ())
    try:
        link.accept()
        while not (isinstance(said := link.next(), Load) and said.ready):
            assert not isinstance(said, Outputs)
        prompt, how = pack_u32([FIRST_WORD, FIRST_WORD + 1]), {"max_tokens": 20, "temperature": 1.0}
        grammar = b'start: ("fox" | "dog"){4} " jumps over"'
        tokens, finish, message = link.answer(Generate("one", "t", prompt, Sampling(**how, grammar=grammar)))
        assert finish == "stop", message
        assert re.fullmatch("(fox|dog){4} jumps over", tokenizer.decode(tokens))
        tokens, finish, message = link.answer(Generate("two", "t", prompt, Sampling(**how, grammar=b"start: (")))
        assert (tokens, finish) == ([], "error")
        assert "grammar" in message
        engine.terminate()
        assert engine.wait(30) == 0
    finally:
        engine.kill()
        engine.wait()
        link.close()
        kvstore.stop()
