"""One architecture's trial: a tiny checkpoint is made, loaded as an engine loads it, and asked.

Owns the verdict. *equal*: it loads, the self-test passes, and every answer is transformers' own. *refused*: with a
``ModelRefused``, whose sentence is the reason. *differs*: it loads and answers otherwise, which may never be. *gap*:
neither, such as an exception that is no refusal, or a checkpoint that this table does not know how to make.

It is loaded twice, as by two engines of one host: what is asked is the second one's, whose weights are those that the
first has written, wherever they are shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from quire_engine.checkpoint.demands.positions import served_length
from quire_engine.checkpoint.layout import layout_of
from quire_engine.checkpoint.refusal import ModelRefused, first_line
from quire_engine.model.selftest.selftest import self_test
from quire_engine.model.shared.shared_model import WeightsPlace, load_shared_model
from quire_engine.model.weights import transformers_class

from .same_tokens import BLOCK, NEW, compare
from .shapes import small_config

EQUAL, REFUSED, DIFFERS, GAP = "equal", "refused", "differs", "gap"
MOST_WEIGHTS = 30_000_000  # a checkpoint with more was not made small
SEEDS = 3  # weights that are drawn until a model does not repeat itself


@dataclass(frozen=True)
class Candidate:
    """What is tried: ``kind`` is transformers' name, ``changes`` are to its small configuration."""

    name: str
    kind: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    max_model_len: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a case: a verdict, and the sentence that goes with it; whether the model repeated itself, and why
    engines would not share its weights."""

    name: str
    verdict: str
    said: str = ""
    repeats: bool = False
    private: str = ""


def try_case(case: Candidate, directory: Path) -> Outcome:
    """Make, load and compare, with other weights if those made a model that repeats itself; whatever goes wrong on the
    way is the outcome."""
    for seed in range(SEEDS):
        outcome = _tried(case, directory / str(seed), seed)
        if not outcome.repeats:
            break
    return outcome


def _tried(case: Candidate, directory: Path, seed: int) -> Outcome:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        make_checkpoint(case, directory, seed)
    except Exception as error:  # of any kind: these are other people's classes with sizes of ours
        return Outcome(case.name, GAP, f"no tiny checkpoint: {_named(error)}")
    try:
        return _compared(case, directory)
    except ModelRefused as error:
        return Outcome(case.name, REFUSED, str(error).replace(str(directory), "..."))
    except Exception as error:
        return Outcome(case.name, GAP, _named(error))


def _compared(case: Candidate, directory: Path) -> Outcome:
    layout = layout_of(directory, "float32", BLOCK)
    place = WeightsPlace(directory / "weights", 0)
    for _ in range(2):
        model = load_shared_model(directory, "float32", "cpu", layout.weights, place)
    model.max_model_len = served_length(model.config, case.max_model_len)
    try:
        self_test(model, layout)
    except ModelRefused:
        raise
    except Exception as error:  # as an engine does
        raise ModelRefused(f"the self-test failed: {_named(error)}") from error
    found = compare(directory, model, layout)
    equal, answers = len(found.paged) - found.differ, len(found.paged)
    said = f"{equal} of {answers}"
    if equal < answers:
        return Outcome(case.name, DIFFERS, said)
    if not all(found.same):
        said += f", {found.same.count(False)} of them only without transformers' cache"
    if sum(found.distinct) < len(found.distinct) * NEW / 3:
        return Outcome(case.name, GAP, f"{said} are equal, but the model repeats itself: that proves nothing", True)
    return Outcome(case.name, EQUAL, said, private=model.weights_private)


def make_checkpoint(case: Candidate, directory: Path, seed: int = 0) -> None:
    """Write a random checkpoint whose answers depend on the whole prompt. Raises whatever transformers does."""
    config = small_config(case.kind, case.changes)
    maker = transformers_class(config)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in maker.from_config(config).parameters())
    if size > MOST_WEIGHTS:
        raise ValueError(f"its small configuration has {size:,} weights")
    torch.manual_seed(0)
    module = maker.from_config(config, dtype=torch.float32)
    draw_weights(module, seed)
    module.generation_config = GenerationConfig()
    module.save_pretrained(directory)


@torch.no_grad()
def draw_weights(module: Any, seed: int) -> None:
    """Matrices that make a row longer, sharp attention, and embeddings that weigh less than what layers add: then the
    next token depends on the whole prompt, and is seldom the last one again."""
    draw = torch.Generator().manual_seed(seed)
    head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    for name, weight in sorted(module.named_parameters()):
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.fill_(2.0)
        elif weight.ndim == 1 and "post_" in name and name.endswith("weight"):
            weight.fill_(3.0)
        elif weight.ndim < 2:
            if name.endswith("bias"):
                weight.normal_(0.0, 0.1, generator=draw)
        elif weight is embedding.weight or "embed" in name or name.endswith("wpe.weight"):
            weight.normal_(0.0, 0.1, generator=draw)
        else:
            sharp = any(part in name for part in ("q_", "k_", "qkv", "query", "key", "c_attn"))
            weight.normal_(0.0, (2.0 if sharp else 1.5) * min(weight.shape[-2:]) ** -0.5, generator=draw)
    if head is not None and head.weight is not embedding.weight and head.weight.shape == embedding.weight.shape:
        head.weight -= embedding.weight * (2.0 * head.weight.norm() / embedding.weight.norm())


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:300]
