"""Logits: what a request wants done to them before a token is chosen, from its body to the engine."""
