"""Blocks: which are free, held, cached or in quarantine, what each is charged to, which cached one goes first."""
