"""Attention on a CPU: our kernels in C, or PyTorch."""
