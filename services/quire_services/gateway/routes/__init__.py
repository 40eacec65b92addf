"""Routes that generate nothing: prompts as tokens, and APIs that are not served."""
