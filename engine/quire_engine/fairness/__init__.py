"""Fairness: whose turn it is, by tenant and weight, and who gives way."""
