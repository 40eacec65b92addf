"""Configuration: the settings, their loader, the files that they name, and the file that ``quire prepare`` writes.

Owns the names and bounds of every setting. Imports nothing else of this package.
"""
