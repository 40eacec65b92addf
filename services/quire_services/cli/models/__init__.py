"""Commands about the files of a model: fetched from the hub, and given scales."""
