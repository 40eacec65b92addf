"""The processes themselves: kvstore, engine, gateway."""
