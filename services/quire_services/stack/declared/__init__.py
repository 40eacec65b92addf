"""A stack that follows the declarations of a cluster: its processes for that, and what changes in its settings."""
