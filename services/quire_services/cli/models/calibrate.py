"""``quire calibrate``: write the scales for a pool of e4m3 keys and values beside a model's weights.

Most models need none: without the file all scales are 1, and the self-test at load says if that does not fit. The
scales become part of the layout, so a running stack must be started again to take them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from quire_engine.checkpoint.kv_scales import FILE, KvScales
from quire_engine.model.calibrate import calibrate
from quire_engine.model.model import Model, ModelRefused, load_model
from quire_services.gateway.templates.chat_template import LoadError, PromptEncoder
from quire_services.process import flags
from quire_services.process.model.served_model import settled

RANDOM_SEQUENCES, RANDOM_TOKENS = 4, 512  # of random tokens, where no text is given
MAX_TEXT_TOKENS = 2048  # tokens of a text that are looked at: eager attention holds a matrix of scores


def main(argv: list[str]) -> int:
    """Entry of ``quire calibrate``; returns the exit code."""
    parser = flags.Parser(prog="quire calibrate", description=(__doc__ or "").partition("\n")[0])
    flags.add(parser, "serve", "kvstore", only=("model", "revision", "dtype"))
    parser.add_argument(
        "--text", action="append", type=Path, default=[], metavar="FILE", help="text like the requests; may be repeated"
    )
    arguments = parser.parse_args(argv)
    config = flags.read_config(parser, arguments)
    if not config.serve.model:
        parser.error("--model is needed")
    try:
        config = settled(config)
        directory = Path(config.serve.model)
        model = load_model(directory, config.kvstore.dtype, "cuda" if torch.cuda.is_available() else "cpu")
        scales = calibrate(model, _sequences(directory, model, arguments))
        scales.write(directory)
    except (ModelRefused, OSError, UnicodeDecodeError, LoadError) as error:
        print(f"quire calibrate: {error}", file=sys.stderr)  # noqa: T201 - a person reads it
        return 1
    print(f"{directory / FILE}: {_spread(scales)}")  # noqa: T201
    return 0


def _sequences(directory: Path, model: Model, arguments: argparse.Namespace) -> list[list[int]]:
    """Tokens of the texts, or random ones."""
    if arguments.text:
        encoder = PromptEncoder.load(directory)
        return [_tokens(encoder, file) for file in arguments.text]
    draw = np.random.default_rng(0)
    return [draw.integers(0, model.vocab_size, RANDOM_TOKENS).tolist() for _ in range(RANDOM_SEQUENCES)]


def _tokens(encoder: PromptEncoder, file: Path) -> list[int]:
    """Tokens of a text. Raises OSError, UnicodeDecodeError or ModelRefused."""
    tokens = encoder.encode(file.read_text(encoding="utf-8"))[:MAX_TEXT_TOKENS]
    if not tokens:
        raise ModelRefused(f"{file} holds no text")
    return tokens


def _spread(scales: KvScales) -> str:
    """What was found, in a line."""
    pairs = (("keys", scales.keys), ("values", scales.values))
    return ", ".join(f"scales of {name} from {rows.min():g} to {rows.max():g}" for name, rows in pairs)
