"""What an eviction policy costs a block."""
