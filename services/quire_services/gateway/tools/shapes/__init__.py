"""Shapes: events of an answer as the objects of each API that clients speak."""
