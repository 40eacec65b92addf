"""Chat templates: conversations to text, in the form that a model's own template reads, or a refusal.

Invariant: nothing that a client said is left out in silence.
"""
