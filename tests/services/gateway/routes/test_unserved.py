"""APIs that are not served say so, in a sentence."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from quire_services.gateway.routes.unserved import UNSERVED
from tests.support.gateway import GatewayProcess
from tests.support.repository import ROOT


@pytest.mark.parametrize("path", UNSERVED)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_api_that_is_not_served_says_what_is(gateway: GatewayProcess, path: str, method: str) -> None:
    """Whatever the request: its rest of a path, its body, whether an engine is there."""
    for rest in ("", "/x/y"):
        answer = gateway.http.request(method, path + rest, files={"file": b"x" * 100_000} if method == "POST" else None)
        error = answer.json()["error"]
        assert (answer.status_code, error["message"]) == (404, UNSERVED[path])
        if path.startswith("/v1/messages"):
            assert (error["type"], error["details"]["error_code"]) == ("not_found_error", "unsupported_api")
        else:
            assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_api")


def test_official_clients_tell_the_sentence(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    """As what they raise."""
    asks: list[tuple[str, Any]] = [
        ("text-embeddings-inference", lambda: client.embeddings.create(model="tiny", input="hi")),
        ("moderations", lambda: client.moderations.create(input="hi")),
        ("files", lambda: client.files.create(file=b"x", purpose="batch")),
        ("files", lambda: client.files.list()),
        ("audio", lambda: client.audio.transcriptions.create(model="tiny", file=("a.wav", b"x"))),
        ("audio", lambda: client.audio.speech.create(model="tiny", voice="alloy", input="hi")),
        ("images", lambda: client.images.generate(prompt="hi")),
    ]
    for word, ask in asks:
        with pytest.raises(openai.NotFoundError, match=word):
            ask()
    other = anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0)
    with other, pytest.raises(anthropic.NotFoundError, match="/v1/messages, they"):
        other.messages.batches.list()


def test_every_path_is_on_the_page(gateway: GatewayProcess) -> None:
    """What is served, and what is not."""
    page = (ROOT / "docs/operate/endpoints.md").read_text()
    served = list(gateway.http.get("/openapi.json").json()["paths"])
    assert len(served) > 10
    ends = [path.replace("/v1/responses/{response_id}/", "/") for path in served]
    assert [path for path in (*ends, *UNSERVED) if f"`{path}`" not in page] == []
