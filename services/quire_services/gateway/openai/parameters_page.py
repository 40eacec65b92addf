"""The page of all parameters, ``docs/operate/parameters.md``: run as a module, this prints it."""

from __future__ import annotations

import json
import sys

from quire_services.gateway.http.errors import other_api, unsupported

from .body_values import MAX_DEPTH
from .parameters import CHAT, PARAMETERS, PLAIN, RESPONSES, Apis, Parameter
from .response_api.response_parameters import RESPONSE_PARAMETERS

_OF_THE_OTHER = other_api("NAME", "completions").message
_HEAD = f"""# Parameters

What `/v1/chat/completions` and `/v1/completions` do with every parameter that OpenAI or vLLM documents.

- **served**: it does what its name says.
- **accepted**: it has no effect, because it cannot change the answer.
- **refused**: answered 400 with `"code": "unsupported_parameter"` and the parameter in `"param"`, because an answer
  that ignored it would be a wrong answer. Each has its sentence, which is the `"message"`.

`null` is everywhere as good as nothing. A field that is in no row is ignored. What one API alone has is refused in the
other, unless it is false, zero or empty: "{_OF_THE_OTHER}". A whole number may be written as a
float (`8.0`) up to 2^53; a number in quotes and a boolean in its place are refused. A body may be nested {MAX_DEPTH}
levels deep.

This page is made by `python -m quire_services.gateway.openai.parameters_page` and checked by the tests.

| parameter | OpenAI | vLLM | Quire |
| --- | --- | --- | --- |
"""


_RESPONSES_HEAD = f"""
## Responses

What `/v1/responses` does with its own. {CHAT.title()} parameters that it does not have are refused by name as well.

| parameter | OpenAI | vLLM | Quire |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(map(_row, PARAMETERS)) + _RESPONSES_HEAD + "".join(map(_row, RESPONSE_PARAMETERS))


def _row(row: Parameter) -> str:
    return f"| `{row.name}` | {_apis(row.openai)} | {_apis(row.vllm)} | {_quire(row)} |\n"


def _apis(apis: Apis) -> str:
    return {(): "-", (CHAT,): "chat", (PLAIN,): "completions", (RESPONSES,): "yes"}.get(apis, "both")


def _quire(row: Parameter) -> str:
    if row.served:
        where = "" if len(row.served) == 2 or RESPONSES in row.served else f" ({row.served[0]})"
        return f"served{where}" + (f": {row.note}" if row.note else "")
    if row.harmless:
        return f"accepted: {row.note}"
    values = " or ".join(f"`{json.dumps(value)}`" for value in row.neutral)
    sentence = f'"{unsupported(row.name, row.note).message}"'
    return (f"refused, unless it is {values}: " if values else "refused: ") + sentence


if __name__ == "__main__":
    sys.stdout.write(page())
