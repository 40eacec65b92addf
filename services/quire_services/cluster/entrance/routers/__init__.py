"""Routers: programs from PyPI that say which node a prompt should go to, each behind the same face (``router``)."""
