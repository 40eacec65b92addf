"""The files of a model directory, looked at before a library reads them.

Owns the refusals that need no model code: what is not there, cannot be read, is not what its name says, or was cut
off. transformers answers most of them with a traceback or a page of advice, after minutes or not at all; here each is
one sentence that names the file, the cause and what to do. A few milliseconds for a checkpoint of any size: of weights
only the headers are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .refusal import ModelRefused

LFS = b"version https://git-lfs.github.com/spec/"
HEAD = 64  # bytes that tell a pointer or a page of HTML from what should be there
MAX_JSON = 64 << 20

# What a directory without config.json may be instead: a file that gives it away, and what to say of it.
FOREIGN_DIRECTORIES = (
    ("adapter_config.json", "a LoRA or other adapter, not a model: merge it into its base model and serve that"),
    ("*.gguf", "a GGUF model: take the checkpoint in safetensors format that it was made from"),
    ("params.json", "a checkpoint in its maker's own format: take the one that transformers reads"),
    ("model_index.json", "a diffusion pipeline, not a language model"),
)


def check_directory(directory: Path) -> None:
    """Raise ModelRefused unless ``directory`` can be read and holds a config.json."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        raise ModelRefused(f"{directory} is not there: say the directory of a model, or org/name on the hub") from None
    except NotADirectoryError:
        raise ModelRefused(f"{directory} is not a directory: say the one that the model's files are in") from None
    except PermissionError:
        raise ModelRefused(_forbidden(directory)) from None
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{directory} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if "config.json" in names:
        if "adapter_config.json" in names:  # with peft installed, transformers would load the model that it names
            raise ModelRefused(
                f"{directory / 'adapter_config.json'} makes this an adapter: merge it into its base model, or"
                " remove that file if it is merged"
            )
        return
    if what := foreign(names, FOREIGN_DIRECTORIES):
        raise ModelRefused(f"{directory} holds no config.json: it is {what}{_base(directory)}")
    if "snapshots" in names:
        found = sorted(path.name for path in (directory / "snapshots").iterdir()) or ["..."]
        raise ModelRefused(
            f"{directory} holds no config.json: it is a hub cache, whose models are below it: say"
            f" {directory / 'snapshots' / found[-1]}"
        )
    raise ModelRefused(f"{directory} holds no config.json: not a model directory")


def foreign(names: Iterable[str], table: Iterable[tuple[str, str]]) -> str:
    """What the first pattern of a table that fits one of ``names`` gives away; "" if none does."""
    files = [Path(name) for name in names]
    return next((what for pattern, what in table if any(file.match(pattern) for file in files)), "")


def check_file(file: Path) -> None:
    """Raise ModelRefused unless ``file`` can be read and holds something of its own."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except FileNotFoundError:
        raise ModelRefused(_absent(file)) from None
    except PermissionError:
        raise ModelRefused(_forbidden(file)) from None
    except OSError as error:
        raise ModelRefused(f"{file} cannot be read: {error.strerror}") from None
    if not head:
        raise ModelRefused(f"{file} is empty: download it again")
    if head.startswith(LFS):
        raise ModelRefused(f"{file} is a git-lfs pointer, not the file itself: run 'git lfs pull' in {file.parent}")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ModelRefused(f"{file} is a web page, not the file itself: download it again")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``. Raises ModelRefused."""
    check_file(file)
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(MAX_JSON).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{file} is not JSON: {error}: download it again") from None
    if not isinstance(content, dict):
        raise ModelRefused(f"{file} holds no JSON object: download it again")
    return content


def present(file: Path) -> bool:
    """Whether the directory has an entry of this name, a link that leads nowhere included."""
    return os.path.lexists(file)


def _base(directory: Path) -> str:
    """Of an adapter, the model that it was made for."""
    file = directory / "adapter_config.json"
    if not present(file):
        return ""
    base = read_json(file).get("base_model_name_or_path")
    return f" (its base is {base})" if isinstance(base, str) and base else ""


def _absent(file: Path) -> str:
    if file.is_symlink():
        return f"{file} is a link to {os.readlink(file)}, which is not there: download the model again"
    return f"{file} is not there: download the model again"


def _forbidden(path: Path) -> str:
    """Why a path cannot be read: its own mode, or that of the first directory above it that may not be entered."""
    for place in (*reversed(path.absolute().parents), path):
        need = os.X_OK if place != path else os.R_OK | (os.X_OK if place.is_dir() else 0)
        if not os.access(place, need, effective_ids=True):
            break
    try:
        found = place.stat()
        rights = f" (mode {found.st_mode & 0o777:04o}, owner {found.st_uid})"
    except OSError:
        rights = ""
    what = "" if place == path else f", because of {place}"
    return f"{path} cannot be read by user {os.geteuid()}{what}{rights}: let that user read it, or run as its owner"
