"""GGUF conversion: a model in one GGUF file becomes a directory of safetensors, as transformers loads it.

Weights are dequantised to float32 and otherwise as they are, tokenizer and chat template too. A program of its own: it
takes three times the model's memory, and gives it back by ending.

Usage: python -m bench.models.gguf_conversion FILE DIRECTORY
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path


def convert(gguf: Path, directory: Path) -> None:
    """Write the directory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # What was read counts as quantised, which transformers does not save: the same weights in a model that is not.
    config = copy.deepcopy(read.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
