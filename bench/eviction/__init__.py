"""What an eviction policy costs a block, and what it hits in a trace of requests."""
