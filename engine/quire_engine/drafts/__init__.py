"""Drafts: tokens that will probably come, computed several in a step, and counted as far as they are drawn."""
