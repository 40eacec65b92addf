"""The checkpoint: what the files of a model say, read and judged before its weights are."""
