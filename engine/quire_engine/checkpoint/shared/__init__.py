"""Weights that a host keeps once: files of numbers as they are computed with, mapped read-only by every engine."""
