"""How a body becomes a checked request with its tokens: short ones in the loop, long ones in forked readers."""
