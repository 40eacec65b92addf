"""Sequences: requests, their branches, and what each computes in a step."""
