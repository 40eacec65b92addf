"""What an engine's step is made of, and what blocks bring it. One process, no HTTP."""
