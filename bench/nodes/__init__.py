"""A cluster of real stacks on this machine: what its nodes hit together, and what its clients lose when one is gone."""
