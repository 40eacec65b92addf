"""Blocks: which are free, held, cached or in quarantine, whom each is charged to, and which cached one goes first."""
