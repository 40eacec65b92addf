"""What is said of a model that cannot be served: one line that a terminal can show."""

from __future__ import annotations

from pathlib import Path

from quire_engine.checkpoint.refusal import first_line
from quire_services.config.input_files import one_line


def refusal_line(model: Path | str, error: BaseException) -> str:
    """The cause in ``error``, with the model's directory in front unless it is in there already."""
    reason = first_line(error)
    if not isinstance(error, OSError | ValueError):
        reason = f"{type(error).__name__}: {reason}"
    directory = str(Path(model).absolute())
    return one_line(reason if directory in reason else f"{directory}: {reason}")
