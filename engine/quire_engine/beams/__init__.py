"""Beam search over forks: which beams of a request go on, as a gang of sequences that share blocks copy-on-write."""
