"""Failover: what goes on in another engine when its own is gone, what waits for one, and what is suspected of killing
them."""
