"""A model whose weights lie in a file that all engines of the host map: described, written, and put together again."""
