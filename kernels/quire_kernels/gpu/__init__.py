"""Triton kernels, one op a file, and the tables and rules of their launches."""
