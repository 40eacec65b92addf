"""Sharing: which block holds which tokens, what computes the missing ones, which tenants may use published prompts."""
