"""Handoff: live sequences go to another engine, with all that is computed of them."""
