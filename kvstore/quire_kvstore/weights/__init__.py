"""Weights of a GPU in arenas of their own: who writes them, who reads them, and how long they stay."""
