"""The engine's session with the kvstore: the arena mapped, one message a step, and what its answers ask for."""
