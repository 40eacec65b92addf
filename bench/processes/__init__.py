"""Processes that benches start: programs that speak JSON lines, and a kvstore without a model."""
