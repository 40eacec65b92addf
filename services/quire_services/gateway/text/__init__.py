"""Text: tokens to text and back, end tokens, stop strings."""
