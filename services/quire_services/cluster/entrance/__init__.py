"""One entrance in front of several stacks: a router from PyPI says which node, the entrance carries what passes.

The router's policy is its own: it reads the events of nodes and hears of every request. What a client sends and reads
goes through untouched, and goes on at another node when one is gone, as long as nothing of the answer was sent
(``docs/adr/0023-one-entrance.md``).
"""

from .entrance import Entrance
from .members import EntranceNode, NodeState

__all__ = ["Entrance", "EntranceNode", "NodeState"]
