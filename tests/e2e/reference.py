"""What transformers itself generates: eager attention, one unpadded prompt at a time, fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class Reference:
    """The model as transformers runs it."""

    def __init__(self, directory: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    @torch.inference_mode()
    def greedy(self, prompt: list[int], tokens: int) -> list[int]:
        """``tokens`` greedy tokens after ``prompt``, end-of-sequence ignored."""
        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        generated: list[int] = out[0, len(prompt) :].tolist()
        return generated

    @torch.inference_mode()
    def logprobs(self, prompt: list[int]) -> torch.Tensor:
        """Log-probabilities of the token after ``prompt`` [vocabulary]."""
        return torch.log_softmax(self.model(torch.tensor([prompt])).logits[0, -1].float(), -1)
