"""What each process of a stack has: flags, logs, standard streams, a last reason for its supervisor, a tuned collector.

Here, and not beside the daemons, because the gateway's rooms use it too.
"""
