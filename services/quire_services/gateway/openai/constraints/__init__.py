"""Constraints: what a request says that its answer must be, as one grammar for the engine."""
