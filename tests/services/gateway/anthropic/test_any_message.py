"""No body, whatever it holds, gets an answer that is not Anthropic's: 200, or 400 with the error object."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quire_services.gateway.anthropic.bodies import MessagesBody
from quire_services.gateway.anthropic.parameters import ACCEPTED, REFUSED
from tests.services.gateway.anthropic.test_api_errors import JSON, error_of
from tests.services.gateway.anthropic.test_messages import TOOLS, ask
from tests.services.gateway.openai.test_any_body import HALF, scalars, values
from tests.support.puppet_stage import Stage

NAMES = sorted({*MessagesBody.model_fields, *ACCEPTED, *REFUSED, "seed"})
KINDS = ["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking", HALF]
block = st.fixed_dictionaries({"type": st.sampled_from(KINDS) | scalars}, optional={
    "text": scalars, "id": scalars, "name": scalars, "input": values, "tool_use_id": scalars, "is_error": scalars,
    "content": values, "thinking": scalars, "data": scalars,
})  # fmt: skip
turn = st.fixed_dictionaries({
    "role": st.sampled_from(["user", "assistant", "system"]) | scalars,
    "content": scalars | st.lists(block | scalars, max_size=3) | values,
})  # fmt: skip
tool = st.fixed_dictionaries({"name": scalars}, optional={
    "input_schema": values, "type": scalars, "description": scalars, "strict": scalars, "allowed_callers": values,
})  # fmt: skip
named = st.fixed_dictionaries(
    {"type": scalars | st.sampled_from(["any", "tool", "enabled"])}, optional={"name": scalars}
)
fields = st.fixed_dictionaries({}, optional={
    "messages": st.lists(turn, max_size=3) | values, "system": st.lists(block, max_size=2) | values,
    "tools": st.lists(tool, max_size=2) | values, "tool_choice": named | values, "thinking": named | values,
})  # fmt: skip
bodies = st.builds(
    lambda changes, more: ask("text", max_tokens=3) | changes | more,
    fields,
    st.dictionaries(st.sampled_from(NAMES), values, max_size=2),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies | values)
@example(ask("text", tools=[{"name": HALF, "input_schema": {}}]))
@example(ask("text", stop_sequences=[HALF], stream=True))
@example(ask("text", tool_choice={"type": "tool", "name": HALF}))
@example(ask("text", system=[{"type": "text", "text": HALF}]))
@example(ask("text", tools=TOOLS, tool_choice={"type": "any"}))
@example(ask("text", thinking={"type": "enabled", "budget_tokens": 10**400}))
@example(ask("text", output_config={"format": {"type": "json_schema", "schema": {"$ref": HALF}}}))
def test_any_body_is_answered(stage: Stage, body: Any) -> None:
    """Wrong types, wild numbers and half characters at any place: answered, or refused with the error object."""
    answer = stage[0].http.post("/v1/messages", content=json.dumps(body), headers=JSON)
    if answer.status_code == 404:
        assert body["model"] != "tiny"
    elif answer.status_code != 200:
        error_of(answer, 400, "invalid_request_error")
