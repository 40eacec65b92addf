"""A model by its name on the hub, and where it lies in the cache of this host.

Owns what counts as such a name, and when a cached snapshot is whole: its configuration, a tokenizer and all weights are
there. A snapshot that is whole is taken as it is, without a question to the hub: a stack starts without a network, and
every start of it serves the same weights until someone fetches others (``hf download``, or another revision).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from quire_engine.checkpoint.model_files import present, read_json
from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.weights.weight_files import INDEX, SINGLE

NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
MAIN = "main"
# Any of them is enough for a tokenizer of transformers.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub.

    Attributes:
        name: as ``org/name``.
        revision: a branch, a tag or a commit.
    """

    name: str
    revision: str = MAIN

    @classmethod
    def named(cls, text: str, revision: str = "") -> HubModel | None:
        """What a setting names, if it is a model on the hub: whatever is there on the disk is a directory."""
        org, _, name = text.partition("/")
        if not NAME.fullmatch(text) or org.strip(".") == "" or name.strip(".") == "" or Path(text).exists():
            return None
        return cls(text, revision or MAIN)

    def __str__(self) -> str:
        return self.name if self.revision == MAIN else f"{self.name} at {self.revision}"

    @property
    def folder(self) -> Path:
        """The place of all its revisions in the cache."""
        from huggingface_hub import constants  # here, so that what looks at a directory needs no library

        return Path(constants.HF_HUB_CACHE) / f"models--{self.name.replace('/', '--')}"

    def cached(self) -> Path | None:
        """The directory of the snapshot, if it is there and whole."""
        commit = self.revision if COMMIT.fullmatch(self.revision) else self._commit()
        directory = self.folder / "snapshots" / commit
        return directory if commit and not lacking(directory) else None

    def _commit(self) -> str:
        """The commit that a branch or tag was at when it was fetched; "" if it never was."""
        try:
            return (self.folder / "refs" / self.revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return ""


def lacking(directory: Path) -> list[str]:
    """What a directory of a model lacks of the files without which it cannot be served."""
    found = [] if present(directory / "config.json") else ["config.json"]
    if not any(present(directory / name) for name in TOKENIZER_FILES):
        found.append(TOKENIZER_FILES[0])
    return found + [name for name in weight_names(directory) if not present(directory / name)]


def weight_names(directory: Path) -> list[str]:
    """The files that a directory's weights lie in, or should: one, or those that the index names."""
    if present(directory / SINGLE) or not present(directory / INDEX):
        return [SINGLE]
    try:
        weight_map = read_json(directory / INDEX).get("weight_map")
    except ModelRefused:
        return [INDEX]
    return sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else [INDEX]
