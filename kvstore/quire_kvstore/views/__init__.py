"""Views: the pool as readers are shown it, block by block, and what must hold of it. Nothing here changes the store."""
