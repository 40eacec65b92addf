"""The same stacks under Ray Serve: a deployment whose replicas are whole stacks, for those who live in Serve.

    serve run quire_services.cluster.ray_serve:build config=cluster.yaml

Serve counts, places and replaces replicas, and its proxies take requests; a replica supervises a stack as a node of a
cluster does, and carries what comes to its gateway as an entrance does.
"""

from .application import build

__all__ = ["build"]
