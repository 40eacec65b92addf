"""A repository of the hub, by the list of its files: which of them make a model that can be served.

Only safetensors are fetched, and beside them what is read of a model: configuration, tokenizer, templates. Weights in
other formats, of other frameworks and in their maker's own layout stay where they are, and a repository that has no
others is refused by the list alone, before anything is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from quire_engine.checkpoint.model_files import FOREIGN_DIRECTORIES, foreign
from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.weights.weight_files import FOREIGN_WEIGHTS, INDEX, SINGLE

# What is read beside the weights, all of it small; of folders, chat templates alone.
DESCRIPTIONS = re.compile(
    r"[^/]+\.(json|jinja|model|tiktoken)|(vocab|merges|added_tokens)\.txt|additional_chat_templates/.+"
)
NOT_READ = re.compile(r".*\.(safetensors|bin|ckpt|h5|msgpack|onnx)\.index\.json|training_args.*|trainer_state\.json")


def check_listing(name: str, files: Collection[str]) -> None:
    """Raise ModelRefused unless a repository with these ``files`` may hold a model in safetensors."""
    if "config.json" not in files:
        what = foreign(files, FOREIGN_DIRECTORIES)
        raise ModelRefused(f"{name} holds no config.json: " + (f"it is {what}" if what else "not a model"))
    if "adapter_config.json" in files and not {SINGLE, INDEX} & set(files):
        raise ModelRefused(f"{name} is {dict(FOREIGN_DIRECTORIES)['adapter_config.json']}")
    if not {SINGLE, INDEX} & set(files):
        what = foreign(files, FOREIGN_WEIGHTS)
        raise ModelRefused(f"{name} holds no {SINGLE}: {what or 'only what describes a model, no weights of it'}")


def descriptions(files: Collection[str]) -> list[str]:
    """Those of ``files`` that say what the model is, the index of its weights among them."""
    index = {INDEX} if SINGLE not in files else set()
    return sorted(
        file for file in files if file in index or (DESCRIPTIONS.fullmatch(file) and not NOT_READ.fullmatch(file))
    )
