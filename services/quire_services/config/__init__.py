"""Configuration: the settings, their loader, files that they name, the prepared file, the process table, and names of
sockets.

Owns the names and bounds of every setting. Imports nothing else of this package.
"""
