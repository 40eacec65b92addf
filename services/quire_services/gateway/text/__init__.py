"""Text and tokens, below any API: encoding with a prompt cache, decoding as it streams, end tokens, stop strings."""
