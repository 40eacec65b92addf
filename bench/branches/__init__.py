"""Several continuations of one prompt: what sharing their blocks saves, and whether their text depends on the batch."""
