"""The weights of a checkpoint, by the heads of their files: all there, in which element type, quantised or not."""
