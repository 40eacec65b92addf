"""The long-running processes, each a ``main``: kvstore, engine, gateway. Settings in, exit code out.

What they run is elsewhere: ``quire_kvstore``, ``quire_engine``, ``gateway``.
"""
