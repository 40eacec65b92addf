"""Weights of a GPU, once for all its processes: the packets, the manifest, and a client's side of ``weights.sock``."""
