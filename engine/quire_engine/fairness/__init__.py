"""Fairness: whose turn it is, by tenant and weight, and which sequence gives way."""
