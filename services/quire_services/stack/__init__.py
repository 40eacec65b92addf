"""The stack of one host: its supervisor, the command lines of its processes, its run directory, its readiness.

Knows the processes from outside only: what they print, whether they answer, how they end.
"""
