"""All that only a GPU can show: ``run.py`` in one call; what tunes the kernels to its result."""
