"""Random models, made from a seed: tiny ones for tests and the demo, larger ones for benches."""
