"""Routers behind the entrance: real ones, in front of real stacks."""
