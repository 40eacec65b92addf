"""Published prompts: how they are rendered, and shown."""
