"""Branches: several continuations of one prompt: the best of some, and what a beam search finds."""
