"""What a model demands of a pool: mechanisms beside its blocks, positions, bytes; no torch."""
