"""The gateway: HTTP on one side, engines on the other, and a request's way between them.

The modules here are that way and what it passes; each folder is a part of it that knows nothing of the rest.
"""
