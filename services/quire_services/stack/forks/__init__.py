"""Engines that are forked from a process which has imported what they need: their start takes a fraction of the time.

An engine's imports take longer than everything else that it does until it is ready, and are the same each time.
"""
