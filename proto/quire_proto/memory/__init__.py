"""The arena in a process: host memory or a GPU's, from a handle to addresses."""
