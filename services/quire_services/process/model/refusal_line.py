"""What is said of a model that cannot be served: one line that a terminal can show."""

from __future__ import annotations

from pathlib import Path

from quire_engine.checkpoint.refusal import first_line
from quire_services.config.input_files import one_line


def refusal_line(model: Path | str, error: BaseException) -> str:
    """The cause in ``error``, with the model's directory, or its name on the hub, in front unless it is in there."""
    reason = first_line(error)
    if not isinstance(error, OSError | ValueError):
        reason = f"{type(error).__name__}: {reason}"
    name = str(Path(model).absolute()) if Path(model).exists() else str(model)
    return one_line(reason if name in reason else f"{name}: {reason}")
