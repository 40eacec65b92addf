"""The ``quire`` command, the processes of a stack, and the gateway: what reads configuration and catches signals."""
