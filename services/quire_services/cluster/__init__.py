"""More than one node: what stands in front of several stacks, and what puts them on several machines."""
