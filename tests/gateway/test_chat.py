"""Chat completions through the official client."""

from __future__ import annotations

import openai

from tests.gateway.peer import PeerEngine

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the quick fox"}]


def test_a_chat_answer_has_text_usage_and_reason(client: openai.OpenAI, engine: PeerEngine) -> None:
    """The answer has the official client's types, the prompt the template's form, usage the cached tokens."""
    engine.cached_tokens = 5
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=500 // 2)

    (request,) = engine.requests
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.startswith("be briefthe quick foxbe brief")
    assert answer.usage.prompt_tokens == len(request.tokens) // 4
    assert answer.usage.completion_tokens == 250
    assert answer.usage.prompt_tokens_details.cached_tokens == 5
