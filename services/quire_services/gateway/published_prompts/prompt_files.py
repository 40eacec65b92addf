"""Files of a published prompt: a system message as text and the tools that go with it as JSON, or a whole request.

They are read the way a request would carry them: the text as it is in the file, the tools as the list that
clients send in ``tools``, in the same order, because a template writes them into the prompt as they come. Whatever a
person can name as a file is answered with one line: a directory, binary data, a file without end, nesting without
end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quire_services.config.input_files import one_line, read_bytes
from quire_services.config.settings import MAX_BODY_BYTES
from quire_services.gateway.openai.body_values import MAX_DEPTH, too_deep


class PublishError(Exception):
    """A prompt cannot be published; one line says why."""


def read_system(file: Path) -> str:
    """The text of a system message; raises PublishError if there is none."""
    text = _text(file, "published prompt")
    if not text.strip():
        raise PublishError(f"published prompt {file}: it is empty")
    return text


def read_tools(file: Path) -> list[dict[str, Any]]:
    """The tools of a JSON file, a list as in a request's ``tools``; raises PublishError."""
    return checked_tools(_json(file, "tools"), f"tools {file}")


def read_request(file: Path) -> object:
    """The JSON value of a file that holds a request's body; raises PublishError."""
    return _json(file, "request")


def checked_tools(value: object, what: str) -> list[dict[str, Any]]:
    """``value`` if it is a list of tools that is not empty; raises PublishError that begins with ``what``."""
    if not isinstance(value, list) or not value or not all(isinstance(tool, dict) for tool in value):
        raise PublishError(f"{what}: must be a list of tools as in a chat request, each an object, at least one")
    if too_deep(value):
        raise PublishError(f"{what}: nested deeper than {MAX_DEPTH} levels")
    return value


def _json(file: Path, what: str) -> object:
    text = _text(file, what)
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PublishError(f"{what} {file}: not JSON: {one_line(str(error))}") from None


def _text(file: Path, what: str) -> str:
    try:
        return read_bytes(file, MAX_BODY_BYTES).decode()
    except OSError as error:
        raise PublishError(f"{what} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PublishError(f"{what} {file}: not UTF-8 text") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
