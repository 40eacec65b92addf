"""The stack of one host: its supervisor, processes, run directory and readiness."""
