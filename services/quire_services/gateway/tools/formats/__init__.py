"""Formats: how families of models write tool calls and reasoning, as data."""
