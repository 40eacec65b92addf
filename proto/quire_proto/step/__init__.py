"""What an engine keeps between steps: the message in the making, releases, the chain of digests, publications."""
