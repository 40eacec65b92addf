"""Drawing tokens, where that takes more than PyTorch's operations do well."""
