"""The engine and the kvstore: one message a step, and what is done with its answer."""
