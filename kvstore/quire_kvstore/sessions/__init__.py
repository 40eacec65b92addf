"""Sessions: one attached process each, its sequences, what it must scrub, and the order of its requests."""
