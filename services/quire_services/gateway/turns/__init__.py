"""Turns: whose request is next, by tenant and weight."""
