"""OpenAI's API: bodies and their parameters, what is refused, and the objects of answers, for chat and completions."""
