"""Prompts that are shared on purpose: how they are read, rendered to tokens, and shown.

What is published is the kvstore's to keep; the wire calls such a prompt a publication.
"""
