"""The wire: frames, the codec, errors, and the values that both sides read alike."""
