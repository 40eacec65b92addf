"""The hub: models by name, ``org/name``, from huggingface_hub's cache on this host or over HTTP into it; no torch."""
