"""Engines and a kvstore as processes on a GPU: kills, late writes, tokens a second."""
