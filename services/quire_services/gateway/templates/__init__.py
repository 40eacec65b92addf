"""Chat templates: messages to text, and what templates need and lose."""
