"""Many nodes in virtual time: real stores, modelled engines, generated agents, routers, nodes that are lost."""
