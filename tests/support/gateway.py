"""A gateway process on a free port, over a tiny tokenizer, and the test engines that connect to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.support.peer_engine import PeerEngine
from tests.support.ports import free_port, listens
from tests.support.waits import wait_for

SPECIAL = ["<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "<bos>{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'function' %}{{ raise_exception('no functions here') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs"] * 4


def write_tokenizer(folder: Path, *, template: bool = True) -> Tokenizer:
    """A byte-level BPE tokenizer in a model directory: characters outside the corpus are several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "clean_up_tokenization_spaces": False,
    }
    if template:
        config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


class GatewayProcess:
    """A gateway process and the engines that a test connects to it."""

    def __init__(self, model: Path, *arguments: str, config: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="quire-gw-")
        self.run_dir = Path(self._folder.name)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=30)
        self.log = self.run_dir / "log"
        self.engines: list[PeerEngine] = []
        self._model = model
        command = [sys.executable, "-m", "quire_services.daemons.gateway", "--model", str(model)]
        command += ["--run-dir", str(self.run_dir), "--port", str(self.port), "--served-model-name", "tiny"]
        if config:
            command += ["--config", str(config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, env=os.environ)

    def wait(self) -> GatewayProcess:
        """Wait for the port."""
        wait_for(lambda: self.process.poll() is not None or listens(self.port), "the gateway listens", 60)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def engine(self, name: str = "peer-1", kind: type[PeerEngine] = PeerEngine, **options: Any) -> PeerEngine:
        """Connect a test engine and wait until it counts."""
        before = self.health()["engines"]["ready"]
        options = {"vocab": 320, "eos": 1} | options
        engine = kind(self.run_dir / "gateway.sock", name, **options)
        self.engines.append(engine)
        wait_for(lambda: self.health()["engines"]["ready"] > before, "the engine is ready")
        return engine

    def health(self) -> dict[str, Any]:
        """The health page."""
        body: dict[str, Any] = self.http.get("/health").json()
        return body

    def tokenizer(self) -> Tokenizer:
        """That of its model."""
        return Tokenizer.from_file(str(self._model / "tokenizer.json"))

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; every line must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        """SIGTERM, wait, clean up; the exit status."""
        for engine in self.engines:
            engine.close()
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end and clean up; the exit status."""
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.http.close()
            self._folder.cleanup()


def refused(model: Path, *arguments: str) -> str:
    """Start a gateway that cannot start; the reason it gives in the last line of its log."""
    process = GatewayProcess(model, *arguments)
    code = process.process.wait(30)
    last = process.lines()[-1]
    socket_left = (process.run_dir / "gateway.sock").exists()
    process.ended()
    assert (code, last["event"], socket_left) == (1, "cannot_start", False)
    return str(last["reason"])


Start = Callable[..., GatewayProcess]  # as the fixture of that name does
