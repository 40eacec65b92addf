"""What one tenant costs another: hostile bodies and floods, noise, very long prompts."""
