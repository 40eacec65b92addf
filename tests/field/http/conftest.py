"""The fixtures of a gateway process."""

from __future__ import annotations

from tests.support.gateway_fixtures import gateway, model, tokenizer

__all__ = ["gateway", "model", "tokenizer"]
