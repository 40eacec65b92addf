"""The official openai client against the real stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from bench.models.tiny import make_model
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

CONFIG = '[[tenants]]\nname = "ada"\nkeys = ["sk-ada"]\n'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("openai")
    with running_stack(tmp, make_model(tmp / "model", vocab=256), engines=1, config=CONFIG) as started:
        yield started


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="sk-ada", max_retries=0) as made:
        yield made


@pytest.mark.process
def test_chat_and_its_stream_agree(client: openai.OpenAI) -> None:
    """A greedy chat answer is the same streamed, and the second time its prompt comes from the cache."""
    ask = {
        "model": "m",
        "messages": [{"role": "user", "content": " ".join(f"w{i}" for i in range(60))}],
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**ask)
    assert whole.usage.completion_tokens == 12
    assert whole.usage.prompt_tokens_details.cached_tokens == 0
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens >= 48
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


@pytest.mark.process
def test_completions_take_all_prompt_forms(client: openai.OpenAI) -> None:
    """String, list of strings, token ids and list of token ids give the same greedy continuation."""
    words, ids = "w1 w2 w3", [8, 9, 10]
    texts = [
        [c.text for c in client.completions.create(model="m", prompt=p, max_tokens=6, temperature=0).choices]
        for p in (words, [words, words], ids, [ids, ids])
    ]
    assert texts == [[texts[0][0]], [texts[0][0]] * 2, [texts[0][0]], [texts[0][0]] * 2]


@pytest.mark.process
def test_errors_are_the_clients_own_classes(stack: Stack, client: openai.OpenAI) -> None:
    """Wrong key, unknown model, too long a prompt and a bad parameter raise what an OpenAI user expects."""
    message = [{"role": "user", "content": "w1"}]
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="sk-no", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=message)
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model="m", prompt=[9] * 5000, max_tokens=1)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="m", messages=message, temperature=-1)
    assert [m.id for m in client.models.list()] == ["m"]


@pytest.mark.process
def test_a_closed_stream_frees_its_blocks(stack: Stack, client: openai.OpenAI) -> None:
    """Closing the stream in mid-answer gives its blocks back."""
    stream = client.completions.create(
        model="m", prompt=[9] * 40, max_tokens=3000, n=8, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    wait_for(lambda: stack.stats().blocks["held"] == 0, "the blocks came back", 5)
