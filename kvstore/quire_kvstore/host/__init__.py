"""The host: the arena's memory, the sockets and files of the run directory, and what is kept over restarts."""
