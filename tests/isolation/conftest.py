"""A running stack with tenants, the CLI as a person types it, and the official client of each tenant."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.models.tiny import FIRST_WORD, make_model
from quire_proto.client.client import KVReader
from quire_proto.messages import Publication
from quire_proto.wire.u32 import pack_u32
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

TENANTS = {"ann": ["research"], "bob": ["research"], "cat": [], "eve": [], "scout": []}
ENGINES = 2
BLOCK = 16
VOCAB = 256
# Tools stand behind the system message, as many models' templates have it.
TEMPLATE = (
    "<bos>{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}"
    "{% if loop.first %}{% for tool in tools or [] %} <tool> {{ tool.function.name }}{% endfor %}{% endif %}"
    " <end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass
class House:
    """The stack and all tenants in it."""

    stack: Stack
    folder: Path
    settlings: int = 0

    def quire(self, *arguments: str, code: int = 0) -> str:
        """Run a subcommand on this stack; returns what it printed."""
        command = [sys.executable, "-m", "quire_services.cli", *arguments, f"--run-dir={self.stack.run_dir}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def publish(self, name: str, system: str, domain: str, *flags: str) -> int:
        """Publish by CLI and wait until an engine has computed it; returns the published length, in tokens."""
        file = self.folder / f"{name}.txt"
        file.write_text(system)
        told = json.loads(self.quire("prefix", "publish", f"--file={file}", f"--domain={domain}", "--json", *flags))
        wait_for(lambda: self.published(name).state == "ready", f"{name} is computed", 90)
        length = len(self.published(name).tokens) // 4
        assert (told["id"], told["domain"], told["tokens"]) == (name, domain, length)
        self.settle()
        return length

    def settle(self) -> None:
        """Wait until every engine knows all that was declared so far. An idle one learns it with its next heartbeat: it
        does once it hits something that was published later still."""
        self.settlings += 1
        name = f"settled-{self.settlings}"
        marker = [FIRST_WORD + self.settlings, *range(FIRST_WORD, FIRST_WORD + BLOCK)]
        with KVReader(self.stack.run_dir) as kvstore:
            kvstore.publish(name, "public", pack_u32(marker))
            wait_for(lambda: kvstore.lookup(publication=name).tokens, "the marker is computed", 90)
            body = {"model": "m", "prompt": [*marker, FIRST_WORD], "max_tokens": 1}
            knowing: set[str] = set()

            def all_know() -> bool:
                answer = self.stack.http.post(
                    "/v1/completions", json=body, headers={"authorization": "Bearer sk-scout"}
                )
                if answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == len(marker):
                    knowing.add(answer.headers["x-quire-engine"])
                return len(knowing) == ENGINES

            wait_for(all_know, "every engine hits the marker", 60)
            kvstore.unpublish(name)

    def published(self, name: str) -> Publication:
        """A publication, as the kvstore has it."""
        return next(p for p in self.stack.stats().publications if p.id == name)

    def chat(self, tenant: str, system: str, user: str, **options: Any) -> openai.types.CompletionUsage:
        """One chat of a tenant through the official client; returns its usage."""
        messages: list[Any] = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        with openai.OpenAI(base_url=f"{self.stack.url}/v1", api_key=f"sk-{tenant}", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="m", messages=messages, max_tokens=2, temperature=0, extra_body={"ignore_eos": True}, **options
            )
        assert answer.usage is not None
        return answer.usage

    def cached(self, tenant: str, system: str, user: str, **options: Any) -> int:
        """Tokens of such a chat that were found computed, as the tenant is told."""
        details = self.chat(tenant, system, user, **options).prompt_tokens_details
        assert details is not None
        assert details.cached_tokens is not None
        return details.cached_tokens


def words(seed: int, count: int) -> str:
    """``count`` words of the tiny model, each one token; another text for each seed, from its first words on."""
    return " ".join(f"w{(seed * 31 + i * (2 * seed + 7)) % 230}" for i in range(count))


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("isolation")
    model = make_model(folder / "model", vocab=VOCAB)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    rows = [
        f'[[tenants]]\nname = "{name}"\nkeys = ["sk-{name}"]\ngroups = {json.dumps(groups)}\n'
        for name, groups in TENANTS.items()
    ]
    parser = ("--tool-parser", "hermes")  # the template writes no calls by which one could be found
    with running_stack(folder, model, *parser, engines=ENGINES, config="".join(rows)) as stack:
        yield House(stack, folder)
