"""Libraries that are loaded before an engine which computes on a CPU: an OpenMP and an allocator that serve it better.

Intel's OpenMP (``libiomp5.so``) wakes and joins threads quicker than GNU's, and tcmalloc hands out a step's tensors
quicker than glibc. Neither is a dependency: each is taken where it is found. They have to be there before the process
is, by LD_PRELOAD, so this is decided by whoever starts an engine, and by an engine that somebody else has started.
"""
