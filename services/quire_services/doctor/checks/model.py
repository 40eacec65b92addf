"""The model's directory: there, readable, whole, with a tokenizer, small enough: all from the heads of its files."""

from __future__ import annotations

import os
from pathlib import Path

from quire_engine.checkpoint.hub.hub_model import TOKENIZER_FILES, HubModel
from quire_engine.checkpoint.model_files import check_directory, check_file, read_json
from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.weights.quantisation import check_quantisation
from quire_engine.checkpoint.weights.weight_files import check_weights, weight_elements
from quire_kv import DTYPE_BYTES, Layout
from quire_kvstore.host.host_space import available_bytes
from quire_services.doctor.checks.shared_weights import weight_copies
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.scene import Scene
from quire_services.process.model.served_model import dtype_here


def check_model(scene: Scene) -> Findings:
    """Whether it could be loaded, as far as that shows without loading it."""
    directory = scene.model
    if directory is None:
        yield problem("model-not-named", "no model is named", "give --model DIR to have one looked at", "serve.model")
        return
    if not directory.exists() and (hub := HubModel.named(scene.config.serve.model, scene.config.serve.revision)):
        yield problem(
            "model-not-fetched",
            f"{hub} is not in the hub's cache, or not whole",
            f"quire fetch --model {hub.name}; quire serve does that by itself",
            "serve.model",
        )
        return
    if not directory.exists():
        yield problem(
            "model-not-found",
            f"{directory} is not there",
            "correct --model; in a container mount the directory (docker: -v DIR:DIR:ro)",
            directory,
        )
        return
    if unreadable := _unreadable(directory):
        yield problem(
            "model-unreadable",
            f"user {os.geteuid()} cannot read {len(unreadable)} of its files, {unreadable[0].name} for one",
            f"chmod -R a+rX {directory}, or run as user {unreadable[0].stat().st_uid}",
            unreadable[0],
        )
        return
    try:
        check_directory(directory)
        fields = read_json(directory / "config.json")
        check_quantisation(directory / "config.json", fields)
    except ModelRefused as error:
        yield problem("model-unusable", str(error), _advice(error), directory)
        return
    yield from _weights(scene, directory)
    if scene.layout and (differing := _differing(scene.layout, fields)):
        yield problem(
            "layout-mismatch",
            f"the pool was made for another model than {directory} holds: {differing}",
            "name the model that the stack serves, or start it again with this one",
            directory,
        )


def _weights(scene: Scene, directory: Path) -> Findings:
    whole = True
    try:
        check_weights(directory)
    except ModelRefused as error:
        whole = False
        yield problem("weights-unusable", str(error), _advice(error), directory)
    yield from _tokenizer(directory)
    if not whole:
        return
    try:
        dtype = dtype_here(directory, scene.config)
    except ModelRefused as error:
        yield problem("dtype-refused", str(error), "--dtype auto", directory)
        return
    size = weight_elements(directory) * DTYPE_BYTES[dtype]
    have, needs = available_bytes(), size * weight_copies(scene)
    if not scene.process("engine-1") and needs > have:
        yield problem(
            "weights-exceed-memory",
            f"{scene.engines} engines take {needs:,} bytes for weights as {dtype}, and {have:,} are available",
            "--dtype=bfloat16, fewer --engines, a smaller model, or more memory; on a GPU it is its memory that counts",
            directory,
        )
    else:
        yield fact("model", f"{directory.name}: {size:,} bytes of weights as {dtype}", directory)


def _tokenizer(directory: Path) -> Findings:
    there = [directory / name for name in TOKENIZER_FILES if (directory / name).exists()]
    try:
        for file in there:
            check_file(file)
    except ModelRefused as error:
        yield problem("weights-unusable", str(error), _advice(error), directory)
    if not there:
        yield problem(
            "tokenizer-missing",
            f"{directory} holds no tokenizer",
            f"download the model whole, {TOKENIZER_FILES[0]} included",
            directory,
        )


def _unreadable(directory: Path) -> list[Path]:
    """What of a directory this user cannot read, the directory itself first."""
    if not os.access(directory, os.R_OK | os.X_OK, effective_ids=True):
        return [directory]
    files = (file for file in sorted(directory.iterdir()) if file.is_file())
    return [file for file in files if not os.access(file, os.R_OK, effective_ids=True)]


def _differing(layout: Layout, fields: dict[str, object]) -> str:
    """Sizes that a configuration names and the pool has otherwise. What it does not name is not compared: that takes
    transformers, which the engines do when they attach."""
    named = {
        "num_layers": fields.get("num_hidden_layers"),
        "num_kv_heads": fields.get("num_key_value_heads"),
        "head_dim": fields.get("head_dim"),
    }
    return ", ".join(
        f"{name} {getattr(layout, name)} and {value}"
        for name, value in named.items()
        if isinstance(value, int) and value != getattr(layout, name)
    )


def _advice(error: ModelRefused) -> str:
    """What a refusal says to do, which stands behind its last colon."""
    _, colon, advice = str(error).rpartition(": ")
    return advice if colon else "take another checkpoint"
