"""Servers under test: ours and the peers', started, asked and stopped in one way."""
