"""Sampling: what requests want done to their logits before a token is chosen from them."""
