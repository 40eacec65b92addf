"""More nodes than one, each a stack of its own: who starts them where, and what stands in front of them.

    cluster.yaml -> quire cluster up -> controller -> one stack a node, in a placement group of Ray's
    requests -> quire entrance -> the node that a router names

Ray places, restarts and carries the logs; a stack is what ``quire serve`` starts, and knows nothing of it.
"""
