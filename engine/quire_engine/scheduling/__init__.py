"""Scheduling: which sequences compute what in the next step, and what becomes of what they draw."""
