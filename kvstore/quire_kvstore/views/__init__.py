"""Views: the pool as readers are shown it, block by block. Nothing here changes the store."""
