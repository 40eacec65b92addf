"""Attention and copy kernels over a paged arena, one op a file."""
