"""Events: the stream that tells routers which blocks are cached."""
