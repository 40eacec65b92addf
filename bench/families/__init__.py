"""Every architecture that transformers has, tiny: which load, and whether their tokens are transformers' own."""
