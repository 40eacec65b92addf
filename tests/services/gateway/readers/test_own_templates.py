"""Chat templates that requests bring: by a setting, apart from everything else, within bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire_proto.wire.u32 import unpack_u32
from tests.services.gateway.openai.test_errors import CHAT as PATH
from tests.services.gateway.openai.test_errors import chat, error_of
from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine

OWN = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}{{ tone }}"


@pytest.fixture(scope="module")
def trusting(model: Path) -> Iterator[tuple[GatewayProcess, PeerEngine]]:
    process = GatewayProcess(model, "--trust-request-chat-template").wait()
    yield process, process.engine()
    assert process.stop() == 0


def ask(process: GatewayProcess, template: Any, **how: Any) -> httpx.Response:
    return process.http.post(PATH, json=chat(chat_template=template, max_tokens=1, **how))


def test_without_the_setting_it_is_refused(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """By a sentence that names the setting; null is nothing."""
    refused = error_of(ask(gateway, OWN), 400)
    assert (refused["param"], refused["code"]) == ("chat_template", "unsupported_parameter")
    assert "--trust-request-chat-template" in refused["message"]
    assert ask(gateway, None).status_code == 200


@pytest.mark.parametrize("length", [0, 20_000])
def test_it_is_rendered_instead_of_the_models(trusting: tuple[GatewayProcess, PeerEngine], length: int) -> None:
    """With variables of its own, for a short body or a long one; the next request has the model's again."""
    process, engine = trusting
    more = {"user": "x" * length, "chat_template_kwargs": {"tone": "kindly"}}
    assert ask(process, OWN, **more).status_code == 200
    prompt = process.tokenizer().decode(unpack_u32(engine.requests[-1].tokens), skip_special_tokens=False)
    assert prompt == "[user: hi]kindly"
    assert ask(process, None).status_code == 200
    prompt = process.tokenizer().decode(unpack_u32(engine.requests[-1].tokens), skip_special_tokens=False)
    assert prompt == "<bos><|user|>hi<|assistant|>"


SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "statuses"),
    [
        ("{% for", {400}),
        ("{{ raise_exception('no') }}", {400}),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", {400}),
        ("{{ messages.append(1) }}", {400}),
        ("{% include '/etc/passwd' %}", {400}),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", {400}),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", {400, 413}),
        ("{{ 'a' * 999999999 }}", {400, 413}),
        ("{% set x = namespace(s='ab') %}{% for i in range(60) %}{% set x.s = x.s + x.s %}{% endfor %}", {400, 413}),
        ("{% for i in range(10**9) %}{% endfor %}", {400}),
        (SLOW, {400, 413}),
        ("", {400}),
        (5, {400}),
        ("x" * 70_000, {400}),
    ],
)  # fmt: skip
def test_a_hostile_one_harms_nobody(
    trusting: tuple[GatewayProcess, PeerEngine], template: Any, statuses: set[int]
) -> None:
    """Its own request is refused, soon; others are answered meanwhile, as fast as ever."""
    process, _ = trusting
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        hostile = pool.submit(ask, process, template)
        worst = 0.0
        while not hostile.done():
            asked = time.monotonic()
            assert ask(process, None).status_code == 200
            worst = max(worst, time.monotonic() - asked)
    assert hostile.result().status_code in statuses
    assert hostile.result().json()["error"]["param"] in ("chat_template", "messages", None)
    assert time.monotonic() - began < 30
    assert worst < 2, "on a machine at work"
    assert ask(process, OWN).status_code == 200
