"""The names of the model, and the web pages that may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.support.gateway import GatewayProcess, Start

ASKED: Any = {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
PAGE = "https://app.example"
KEYS = '[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n'


def test_a_model_may_have_several_names(start: Start) -> None:
    """Each is listed and served, and an answer names the model as it was asked for; other names stay unknown."""
    process = start("--model-aliases", "gpt-4o, claude-local,tiny")
    process.engine()
    names = ["tiny", "gpt-4o", "claude-local"]
    client = openai.OpenAI(base_url=process.url + "/v1", api_key="any", max_retries=0)
    assert [model.id for model in client.models.list()] == names
    for name in names:
        assert client.models.retrieve(name).id == name
        assert client.chat.completions.create(model=name, **ASKED).model == name
        long = {"metadata": {"filler": "x" * 20_000}}
        assert client.completions.create(model=name, prompt="hi", max_tokens=1, extra_body=long).model == name
        (*_, last) = client.chat.completions.create(model=name, stream=True, **ASKED)
        assert last.model == name
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", **ASKED)


def test_clients_of_the_other_api_find_the_model_as_well(start: Start) -> None:
    """In its own form, with the types of its official client."""
    process = start("--model-aliases", "claude-local")
    process.engine()
    with anthropic.Anthropic(base_url=process.url, api_key="any", max_retries=0) as client:
        page = client.models.list()
        assert [model.id for model in page.data] == ["tiny", "claude-local"]
        for model in page.data:
            type(model).model_validate(model.model_dump(), strict=True)
            assert client.models.retrieve(model.id) == model
            assert (model.max_input_tokens, model.lifecycle) == (512, "active")
        assert client.messages.create(model="claude-local", **ASKED).model == "claude-local"


@pytest.fixture(scope="module")
def behind_keys(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway with keys that one page may use."""
    config: Path = tmp_path_factory.mktemp("keys") / "quire.toml"
    config.write_text(KEYS)
    process = GatewayProcess(model, "--allowed-origins", PAGE, config=config).wait()
    process.engine()
    yield process
    assert process.stop() == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("key", ["authorization", "x-api-key"])
def test_a_page_that_may_asks_first_without_a_key_and_then_with_it(
    behind_keys: GatewayProcess, path: str, key: str
) -> None:
    """The preflight allows the headers in which keys come, the answer may be read, and so may its error."""
    wanted = f"{key},content-type,anthropic-version,anthropic-dangerous-direct-browser-access"
    asks = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": wanted}
    allowed = behind_keys.http.options(path, headers=asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert set(wanted.split(",")) <= set(allowed.headers["access-control-allow-headers"].replace(" ", "").split(","))
    given = "Bearer sk-acme" if key == "authorization" else "sk-acme"
    for headers, status in (({key: given}, 200), ({key: "no"}, 401)):
        answer = behind_keys.http.post(path, json={"model": "tiny", **ASKED}, headers={"origin": PAGE, **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "request-id" in answer.headers["access-control-expose-headers"]


def test_other_pages_may_not(behind_keys: GatewayProcess, start: Start) -> None:
    """Nor may any where none is named."""
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for process, origin in ((behind_keys, "https://other.example"), (start(), PAGE)):
        answer = process.http.options("/v1/chat/completions", headers=asks | {"origin": origin})
        assert answer.status_code >= 400
        assert answer.headers.get("access-control-allow-origin") is None
