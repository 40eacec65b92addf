"""Files of a published prompt: a system message as text, and the tools that go with it as JSON.

Both are read the way a request would carry them: the text as it is in the file, the tools as the list that
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
    text = _text(file, "tools")
    try:
        return checked_tools(json.loads(text, parse_constant=_no_number), f"tools {file}")
    except (ValueError, RecursionError) as error:
        raise PublishError(f"tools {file}: not JSON: {one_line(str(error))}") from None


def checked_tools(value: object, what: str) -> list[dict[str, Any]]:
    """``value`` if it is a list of tools that is not empty; raises PublishError that begins with ``what``."""
    if not isinstance(value, list) or not value or not all(isinstance(tool, dict) for tool in value):
        raise PublishError(f"{what}: must be a list of tools as in a chat request, each an object, at least one")
    return value


def _text(file: Path, what: str) -> str:
    try:
        return read_bytes(file, MAX_BODY_BYTES).decode()
    except OSError as error:
        raise PublishError(f"{what} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PublishError(f"{what} {file}: not UTF-8 text") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
