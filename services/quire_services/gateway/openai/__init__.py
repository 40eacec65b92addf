"""OpenAI's API: bodies, parameters, and the shapes of answers."""
