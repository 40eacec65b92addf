"""Kernels in C, each beside the file that compiles and calls it."""
