"""No body, whatever it holds, gets an answer that is not this API's: a response, or 400 with the error object."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quire_services.gateway.openai.parameters import PARAMETERS
from quire_services.gateway.openai.response_api.response_parameters import RESPONSE_PARAMETERS
from tests.services.gateway.openai.response_api.test_response_errors import KEY, PATH, body
from tests.services.gateway.openai.test_any_body import HALF, scalars, values
from tests.services.gateway.openai.test_errors import JSON, error_of
from tests.support.puppet_stage import Stage

NAMES = sorted({row.name for row in (*RESPONSE_PARAMETERS, *PARAMETERS)})
KINDS = ["message", "function_call", "function_call_output", "reasoning", "item_reference", "web_search_call", HALF]
part = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["input_text", "output_text", "refusal", "reasoning_text", "input_image", HALF])
        | scalars
    },
    optional={"text": scalars, "refusal": scalars, "annotations": values},
)
parts = scalars | st.lists(part | scalars, max_size=3) | values
item = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(KINDS) | scalars,
        "role": st.sampled_from(["user", "assistant", "system", "developer"]) | scalars,
        "content": parts,
        "output": parts,
        "summary": parts,
        "id": scalars,
        "call_id": st.just("c1") | scalars,
        "name": scalars,
        "arguments": st.sampled_from(["{}", "[" * 5000]) | values,
        "encrypted_content": scalars,
        "status": scalars,
    },
)
tool = st.fixed_dictionaries(
    {"type": st.just("function") | scalars}, optional={"name": scalars, "parameters": values, "strict": values}
)
bodies = st.builds(
    lambda changes: body() | changes,
    st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
    | st.fixed_dictionaries(
        {"input": st.lists(item, max_size=3) | values},
        optional={
            "tools": st.lists(tool, max_size=2),
            "tool_choice": values,
            "text": st.fixed_dictionaries({"format": values}) | values,
            "reasoning": values,
            "include": values,
        },
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies | values)
@example(body(tools=[{"type": "function", "name": HALF}]))
@example(body(tools=[{"type": "function", "name": "f", "parameters": {"a": 10**400}}], tool_choice="none"))
@example(
    body(input=[{"role": "user", "content": "x"}, {"type": "function_call_output", "call_id": HALF, "output": []}])
)
@example(body(model=HALF, stream=True))
@example(body(previous_response_id=HALF))
@example(body(text={"format": {"type": "json_schema", "schema": HALF}}))
@example(body(stream=True, input=[{"id": "msg_1"}]))
def test_any_body_is_answered(stage: Stage, body: Any) -> None:
    """Wrong types, wild numbers and half characters at any place: answered, or refused with the error object."""
    answer = stage[0].http.post(PATH, content=json.dumps(body), headers=KEY | JSON)

    if answer.status_code != 200:
        error_of(answer, answer.status_code)
    assert answer.status_code in (200, 400, 404)
    if answer.status_code == 404:
        assert body["model"] != "tiny" or body.get("previous_response_id") or "item_not_found" in answer.text
