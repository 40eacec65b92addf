"""Documents: a state directory in memory, which outlives the kvstores of a world as files would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quire_kvstore.host.state_dir import StateDir


class Documents(StateDir):
    """Documents by name; a write is done at one instant, as a rename is."""

    def __init__(self) -> None:
        super().__init__(Path("in memory"))
        self.documents: dict[str, dict[str, Any]] = {}

    def read(self, name: str) -> dict[str, Any] | None:
        """A document."""
        return self.documents.get(name)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a document."""
        self.documents[name] = content

    def remove(self, name: str) -> None:
        """Remove a document."""
        self.documents.pop(name, None)

    def names(self, folder: str) -> list[str]:
        """Documents of a folder."""
        return sorted(name for name in self.documents if name.startswith(folder + "/"))
