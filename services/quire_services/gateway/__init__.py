"""The gateway: HTTP on one side, engines on the other, and a request's way between them.

The modules here are that way; each folder is a part of it, and lies below them (``admin`` above).
"""
