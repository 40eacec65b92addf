"""A model over the one copy of its GPU's weights: claimed from the kvstore, uploaded by the first, mapped by all."""
