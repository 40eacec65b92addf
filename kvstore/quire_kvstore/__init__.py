"""The kvstore: one process that owns the block pool, the tables, the refcounts and the prefix index of a GPU."""
