"""A published prompt with tools through agent frameworks as they are, each in an environment of its own.

The environments are those of the client suites (``.clients/NAME``); frameworks without one are left out, and where
there is none at all the tests are skipped. Each framework is another tenant, so whatever is cached of its first request
was published. What is published are the requests that were written down (``test_frameworks`` matches those without a
stack), so a framework that has begun to write tools in another way is found here.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.puppet import make_puppet
from tests.support.quire_command import Quire
from tests.support.repository import ROOT
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.timeout(900)]  # each framework takes seconds to import
ENVIRONMENTS = ROOT / ".clients"
PROGRAM = ROOT / "tests" / "support" / "framework_chat.py"
REQUESTS = ROOT / "tests" / "services" / "gateway" / "published_prompts" / "requests"
ALIKE = ("openai", "litellm", "langchain", "openai_agents", "pydantic_ai", "autogen", "instructor")
OTHERS = ("llamaindex", "crewai", "smolagents")
TENANTS = "".join(f'[[tenants]]\nname = "{name}"\nkeys = ["sk-{name}"]\n' for name in (*ALIKE, *OTHERS))
TIMEOUT_S = 120


def python_of(framework: str) -> Path:
    """The interpreter of a framework's environment."""
    return ENVIRONMENTS / framework / "bin" / "python"


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Stack]:
    """A stack with a model that answers with a sentence."""
    with running_stack(folder, make_puppet(folder / "model"), *flags, engines=1, blocks=4096, config=TENANTS) as stack:
        yield stack


def publish(quire: Quire, stack: Stack, framework: str) -> int:
    """Publish what a framework's request begins with; its length."""
    file = REQUESTS / f"{framework}.json"
    words = ("publish", "--from-request", file, "--domain", "public", "--id", "agent", "--json")
    ran = quire("prefix", *words, "--run-dir", stack.run_dir)
    assert ran.code == 0, ran
    return int(json.loads(ran.out)["tokens"])


def computed(quire: Quire, stack: Stack) -> None:
    """Wait until all that is published is there."""

    def ready() -> bool:
        rows = json.loads(quire("prefix", "list", "--json", "--run-dir", stack.run_dir).out)
        return all(row["state"] == "ready" for row in rows)

    wait_for(ready, "what is published is computed", 60)


def first_request(stack: Stack, framework: str) -> dict[str, Any]:
    """What the gateway logs of the first request of a framework that sends one chat."""
    command = [python_of(framework), PROGRAM, framework, f"{stack.url}/v1", f"sk-{framework}", "m", "play text"]
    ended = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)

    def logged() -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in stack.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == "request" and line["tenant"] == framework]

    wait_for(logged, f"the request of {framework} is logged; it said {ended.stderr[-2000:]!r}")
    return logged()[0]


def present(*frameworks: str) -> list[str]:
    """Those that have an environment; the test is skipped if there are none."""
    found = [framework for framework in frameworks if python_of(framework).exists()]
    if not found:
        pytest.skip(f"no environments of frameworks in {ENVIRONMENTS}")
    return found


def test_one_prompt_is_a_full_hit_of_all_that_say_the_same(tmp_path: Path, quire: Quire) -> None:
    """Tools in canonical form, published once from one framework's request."""
    frameworks = present(*ALIKE)
    with serving(tmp_path, "--tools-in-prompt=canonical") as stack:
        tokens = publish(quire, stack, "openai")
        computed(quire, stack)
        hits = {framework: first_request(stack, framework) for framework in frameworks}

    cached = {name: (one["status"], one["cached_tokens"]) for name, one in hits.items()}
    assert cached == dict.fromkeys(frameworks, (200, tokens))


def test_a_variant_for_each_is_a_full_hit_of_each(tmp_path: Path, quire: Quire) -> None:
    """Tools as they are sent, and a variant published from each framework's own request."""
    frameworks = present(*ALIKE, *OTHERS)
    with serving(tmp_path) as stack:
        tokens = {framework: publish(quire, stack, framework) for framework in frameworks}
        computed(quire, stack)
        hits = {framework: first_request(stack, framework) for framework in frameworks}

    assert {name: one["cached_tokens"] for name, one in hits.items()} == tokens
