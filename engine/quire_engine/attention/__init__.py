"""Attention over blocks of the arena: the plan of a step, shared-prefix groups, and the backends."""
