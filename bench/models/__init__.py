"""Models: random ones, made from a seed, tiny for tests and the demo, larger for benches; and a real one, fetched."""
